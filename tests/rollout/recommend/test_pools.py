from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rollout.recommend.pools import Pools, Ranked


def ranked(items: list[int], made_s: float = 0.0, version: int = 1) -> Ranked:
    log_probs = np.stack([np.array(items, np.float32) * sign for sign in (-1, -2)], 1)
    return Ranked(np.array(items, np.int64), log_probs, log_probs.sum(1), version, 1, made_s)


def test_what_is_not_served_is_served_later_with_where_it_came_from() -> None:
    pools = Pools(users=10, keep_s=60)
    assert pools.serve(7, ranked([5, 3, 9, 4], version=3), 2).item_ids.tolist() == [5, 3]
    assert (pools.left(7).tolist(), pools.left(8).tolist()) == ([9, 4], [])
    left = pools.take(7, 2, [], now_s=1.0)
    assert left is not None
    assert (left.item_ids.tolist(), left.parameter_version) == ([9, 4], 3)
    assert left.log_probs.tolist() == [[-9, -18], [-4, -8]]
    assert pools.take(7, 1, [], now_s=1.0) is None


def test_too_old_too_few_or_unknown_is_none() -> None:
    pools = Pools(users=10, keep_s=60)
    pools.serve(7, ranked([5, 3, 9]), 1)
    assert pools.take(7, 2, [], now_s=61.0) is None
    assert pools.take(7, 3, [], now_s=1.0) is None
    assert pools.take(7, 2, [9], now_s=1.0) is None
    assert pools.take(8, 1, [], now_s=1.0) is None
    assert pools.take(7, 1, [3], now_s=60.0) is not None


def test_users_that_have_not_asked_for_longest_go_first() -> None:
    pools = Pools(users=2, keep_s=60)
    for user in (1, 2):
        pools.serve(user, ranked([5, 3, 9]), 1)
    assert pools.take(1, 1, [], now_s=0.0) is not None
    pools.serve(3, ranked([5, 3]), 1)
    assert len(pools) == 2
    assert pools.take(2, 1, [], now_s=0.0) is None
    assert pools.take(1, 1, [], now_s=0.0) is not None


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4), st.integers(0, 2)), max_size=20), st.integers(0, 2**31))
def test_nothing_is_served_twice_to_a_user(asked: list[tuple[bool, int, int]], seed: int) -> None:
    rng, pools, shown = np.random.default_rng(seed), Pools(users=5, keep_s=60), dict[int, list[int]]()
    for generated, count, user in asked:
        if generated:
            made = ranked(rng.permutation(30)[:12].tolist()).without(pools.served(user))
            served = pools.serve(user, made, count)
        else:
            left = pools.take(user, count, [], now_s=0.0)
            served = ranked([]) if left is None else left
        shown.setdefault(user, []).extend(served.item_ids.tolist())
    assert all(len(items) == len(set(items)) for items in shown.values())
