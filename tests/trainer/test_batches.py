from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.history import INITIAL, HistoryStore
from common.messages import Label, Session
from common.session_log import SessionLog
from common.sessions import absorb, load_initial_histories
from common.stream import Record, partition_of
from tests.trainer.tiny_run import ITEMS, USERS, TinyRun, session, stream_sessions, tiny_index, tiny_settings
from trainer.batches import Batch, BatchBuilder, warm_plays, warm_scores
from trainer.duration_reward import PlayTimes
from trainer.rl_users import is_rl_user
from trainer.session_filter import SessionFilter


@pytest.fixture
def history(tmp_path: Path) -> Iterator[HistoryStore]:
    with HistoryStore(tmp_path / "history.sqlite") as store:
        yield store


def record(offset: int, one: Session | bytes, partition: int = 0) -> Record:
    value = one if isinstance(one, bytes) else one.to_bytes()
    return Record("p.sessions", partition, offset, 0, None, value, [])


def builder(history: HistoryStore, partitions: int, *overrides: str) -> BatchBuilder:
    settings = tiny_settings(f"stream.partitions={partitions}", *overrides)
    return BatchBuilder(settings, tiny_index(), history, SessionFilter(settings.filter), PlayTimes(100))


def build(history: HistoryStore, records: list[Record], *overrides: str) -> Batch:
    return builder(history, 1, *overrides).build(records, {0: (history.end(0), records[-1].offset + 1)})


def build_of_two(history: HistoryStore, records: list[Record], *overrides: str) -> Batch:
    """The same of two partitions."""
    ends = {p: 1 + max(one.offset for one in records if one.partition == p) for p in (0, 1)}
    return builder(history, 2, *overrides).build(records, {p: (history.end(p), end) for p, end in ends.items()})


def watched(hour: int, user: int, *plays: tuple[float, float]) -> Session:
    """A session of (play, duration) in seconds."""
    one = session(hour, 1 + hour / 24, np.random.default_rng(hour), user=user)
    times = [{"play_ms": int(1000 * play), "duration_ms": int(1000 * duration)} for play, duration in plays]
    shown = [i.model_copy(update=t) for i, t in zip(one.impressions, times, strict=False)]
    return one.model_copy(update={"impressions": shown})


def test_contexts_hold_what_came_before_and_targets_what_the_session_held(history: HistoryStore) -> None:
    sessions = [session(n, 1 + n / 100, np.random.default_rng(n), user=3) for n in range(4)]
    batch = build(history, [record(n, one) for n, one in enumerate(sessions)])
    index = tiny_index()
    assert [len(sample.context.events) for sample in batch.samples] == [0, 3, 6, 9]
    for sample, one in zip(batch.samples, sessions, strict=True):
        items = [impression.item_id for impression in one.impressions]
        assert sample.codes.tolist() == index.sids[index.rows(items)].tolist()
        assert (sample.context.time_ms, sample.context.tab) == (one.time_ms, 1)


def test_shuffling_the_future_changes_no_sample(history: HistoryStore, tmp_path: Path) -> None:
    sessions = [session(n, 1 + n / 100, np.random.default_rng(n), user=3) for n in range(8)]
    records = [record(n, one) for n, one in enumerate([*sessions[:4], *sessions[:3:-1]])]
    first = build(history, [record(n, one) for n, one in enumerate(sessions)])
    with HistoryStore(tmp_path / "other.sqlite") as other:
        second = build(other, records)
    digests = [{s.context.time_ms: s.context.digest() for s in batch.samples} for batch in (first, second)]
    for one in sessions[:4]:
        assert digests[0][one.time_ms] == digests[1][one.time_ms]


def test_duplicates_and_bad_records_are_dropped_counted_and_no_history(history: HistoryStore) -> None:
    one, two = stream_sessions(2)
    records = [record(0, one), record(1, b"{"), record(2, one), record(3, two)]
    batch = build(history, records)
    assert {name: batch.counts[f"sessions.{name}"] for name in ("consumed", "valid", "rejected", "duplicates")} == {
        "consumed": 4, "valid": 2, "rejected": 1, "duplicates": 1,
    }  # fmt: skip
    assert [rejected.offset for rejected, _ in batch.rejected] == [1]
    again = build(history, records)  # the same range, executed again
    assert again.counts == batch.counts
    assert [s.context.digest() for s in again.samples] == [s.context.digest() for s in batch.samples]


def test_a_user_on_a_foreign_partition_is_rejected(history: HistoryStore) -> None:
    one = stream_sessions(1)[0]
    home = partition_of(one.user_id, 2)
    placed, rejected, _ = absorb([record(0, one, 1 - home)], {1 - home: (0, 1)}, history, 2)
    assert placed == []
    assert rejected[0][1] == f"its user belongs to partition {home}, not {1 - home}"


def test_unknown_items_train_nothing_and_are_counted(history: HistoryStore) -> None:
    one = stream_sessions(1)[0]
    strange = one.impressions[0].model_copy(update={"item_id": ITEMS + 5})
    batch = build(history, [record(0, one.model_copy(update={"impressions": [strange, *one.impressions[1:]]}))])
    assert (batch.counts["impressions.unknown"], batch.counts["targets"], len(batch.samples[0].codes)) == (1, 2, 2)
    only = one.model_copy(update={"session_id": "x", "impressions": [strange]})
    assert build(history, [record(1, only)]).samples == []


def test_unknown_items_of_sessions_that_are_not_kept_count_as_well(history: HistoryStore) -> None:
    sessions = [watched(hour, 3, (play, 60.0)) for hour, play in enumerate((30.0, 30.0, 1.0))]
    strange = sessions[2].impressions[0].model_copy(update={"item_id": ITEMS + 5})
    sessions[2] = sessions[2].model_copy(update={"impressions": [strange]})
    batch = build(history, [record(n, one) for n, one in enumerate(sessions)], "filter.warmup=1")
    assert (batch.counts["sessions.valid"], batch.counts["sessions.kept"]) == (3, len(batch.samples))
    assert strange.time_ms not in {sample.context.time_ms for sample in batch.samples}
    assert batch.counts["impressions.unknown"] == 1


def test_targets_can_be_the_positive_ones_and_are_the_last_ones(history: HistoryStore) -> None:
    one = stream_sessions(1)[0]
    liked = one.impressions[1].model_copy(update={"labels": int(Label.LIKE)})
    one = one.model_copy(update={"impressions": [one.impressions[0], liked, one.impressions[2]]})
    index = tiny_index()
    assert build(history, [record(0, one)], 'trainer.targets="positive"').samples[0].codes.tolist() == [
        index.sids[index.rows(liked.item_id)].tolist()
    ]
    last = one.impressions[2].item_id
    codes = build(history, [record(0, one)], "trainer.max_targets=1").samples[0].codes
    assert codes.tolist() == [index.sids[index.rows(last)].tolist()]


def test_requests_are_made_for_the_chosen_users_of_the_kept_sessions(history: HistoryStore) -> None:
    sessions = stream_sessions(60)
    batch = build(history, [record(n, one) for n, one in enumerate(sessions)], "rl.rate=0.3")
    chosen = [s for s in batch.samples if is_rl_user(s.context.user_id, s.context.time_ms // 86_400_000, 0.3, 0)]
    assert 0 < len(batch.requests) < len(batch.samples)
    assert [draft.context.digest() for draft in batch.requests] == [sample.context.digest() for sample in chosen]


def test_initial_histories_then_the_warm_window_sit_before_the_stream(history: HistoryStore, tmp_path: Path) -> None:
    run = TinyRun.make(tmp_path / "run", "127.0.0.1:1", topics=False)
    log = SessionLog.open(run.folder / "log")
    for _ in range(2):
        load_initial_histories(log, history, 1)
    warm = list(log.sessions(0, 0))
    assert warm_scores(log, 1) == [one.play_ms for one in warm]
    assert warm_scores(log, 0) == []
    plays = PlayTimes(1000)
    warm_plays(log, 0, plays, 2.0)
    assert len(plays.state()["play_ms"]) == 0
    warm_plays(log, 1, plays, 2.0)
    timed = [i.play_ms for one in warm for i in one.impressions if i.duration_ms]
    assert sorted(plays.state()["play_ms"].tolist()) == sorted(timed)
    assert history.users() == USERS
    for user in range(USERS):
        own = [i.item_id for one in warm if one.user_id == user for i in one.impressions]
        events = history.as_of(user, 0, 0, 1000)
        assert events.item_id.tolist() == [1, 2, *own]
        assert history.profile(user) == {"age": user % 3}
    assert history.end(INITIAL) == 0


def test_feedback_is_of_every_session_and_ranked_by_what_came_before(history: HistoryStore) -> None:
    """One user watches the same length ever longer; the session filter's verdict does not matter."""
    sessions = [session(n, 1 + n / 100, np.random.default_rng(n), user=3) for n in range(6)]
    told = {"duration_ms": 20_000, "labels": 0, "generated": [-1.0, -2.0, -0.5]}
    sessions = [
        one.model_copy(
            update={"impressions": [i.model_copy(update=told | {"play_ms": 1000 * (6 - n)}) for i in one.impressions]}
        )
        for n, one in enumerate(sessions)
    ]
    last = sessions[-1].impressions[0].model_copy(update={"labels": int(Label.DISLIKE), "generated": [], "play_ms": 9000})
    sessions[-1] = sessions[-1].model_copy(update={"impressions": [last, *sessions[-1].impressions[1:]]})
    records = [record(n, one) for n, one in enumerate(sessions)]
    batch = build(history, records, "rl.lambda_feedback=0.1", "rl.fewest_plays=4", "filter.warmup=0")
    assert len(batch.feedback) == 6 > len(batch.samples)
    assert np.isnan(batch.feedback[0].ranks).all()
    assert np.isnan(batch.feedback[1].ranks).all()  # three earlier plays are too few
    assert [sample.ranks.tolist() for sample in batch.feedback[2:]] == [[0.0] * 3] * 3 + [[1.0, 0.0, 0.0]]
    assert batch.feedback[5].negative.tolist() == [True, False, False]
    assert np.isnan(batch.feedback[5].log_probs_old[0]).all()
    assert batch.feedback[5].log_probs_old[1].tolist() == [-1.0, -2.0, -0.5]
    assert not build(HistoryStore(history.path.with_name("other.sqlite")), records).feedback


def test_sessions_of_two_partitions_are_filtered_in_the_order_of_their_times(tmp_path: Path) -> None:
    """By the median of what came before: 10, 15, 12, 14, 15. A partition at a time, all but the last would be kept."""
    assert [partition_of(user, 2) for user in (0, 1, 3)] == [0, 1, 1]
    scores = {0: 10, 1: 20, 2: 12, 3: 16, 4: 15, 5: 14}
    owners = {0: 0, 1: 1, 2: 0, 3: 3, 4: 0, 5: 1}
    sessions = {hour: watched(hour, owners[hour], (score, 60)) for hour, score in scores.items()}
    first = [record(offset, sessions[hour], 0) for offset, hour in enumerate((0, 2, 4))]
    second = [record(offset, sessions[hour], 1) for offset, hour in enumerate((3, 1, 5))]
    kept = [sessions[hour].time_ms for hour in (0, 1, 3, 4)]
    for name, records in (("one", first + second), ("other", second + first)):
        with HistoryStore(tmp_path / f"{name}.sqlite") as store:
            batch = build_of_two(store, records, "filter.warmup=0", "rl.rate=1")
        assert [sample.context.time_ms for sample in batch.samples] == kept
        assert [draft.position for draft in batch.requests] == [(0, 0), (1, 1), (1, 0), (0, 2)]
        assert batch.counts["sessions.kept"] == 4


def test_a_play_with_too_few_of_the_users_own_is_ranked_among_everybodys_before_it(history: HistoryStore) -> None:
    """The first user's plays are of partition 1, and earlier than the second user's of partition 0."""
    first, second = 1, 0
    sessions = [
        watched(0, first, (1, 20), (2, 20), (3, 20)),
        watched(1, first, (4, 20), (5, 20), (6, 20)),
        watched(2, second, (3.5, 20), (0.5, 20), (9, 2)),
        watched(3, first, (5.5, 20), (0.4, 20)),
        watched(4, second, (5.5, 20)),
    ]
    records = [record(offset, sessions[hour], 0) for offset, hour in enumerate((2, 4))]
    records += [record(offset, sessions[hour], 1) for offset, hour in enumerate((0, 1, 3))]
    batch = build_of_two(history, records, "rl.lambda_feedback=0.1", "rl.fewest_plays=4")
    assert [sample.context.time_ms for sample in batch.feedback] == [one.time_ms for one in sessions]
    nan = np.nan
    expected = [
        [nan, nan, nan],
        [nan, nan, nan],  # three plays are too few, be they the user's own or everybody's
        [3 / 6, 0, nan],  # of the first user's six; nobody has watched anything as short as the third
        [5 / 6, 0],  # of the user's own six, not of everybody's eight
        [9 / 10],  # the user's own two are too few, and count among everybody's
    ]
    for sample, ranks in zip(batch.feedback, expected, strict=True):
        np.testing.assert_array_equal(sample.ranks, ranks)
