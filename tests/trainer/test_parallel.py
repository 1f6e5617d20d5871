"""Data parallelism on two real processes: sharded state changes nothing, and two ranks train as one would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.features import Featurizer
from common.policy import build_policy
from tests.factories import TINY, make_index
from tests.trainer.test_pretraining import SETTINGS as PRETRAINING
from tests.trainer.test_pretraining import user
from tests.trainer.test_step import SETTINGS, rl, sft, shown
from tests.trainer.two_ranks import run_on_two_ranks
from trainer.optimizer import PolicyOptimizer, ShardedOptimizer
from trainer.parallel import Ranks, joined_ranks
from trainer.pretraining import pretrain
from trainer.step import TrainingStep

HERE = "tests.trainer.test_parallel"
STEPS = 20


def weights(step: TrainingStep) -> dict[str, Tensor]:
    return {f"weight.{name}": parameter.detach().clone() for name, parameter in step.policy.named_parameters()}


def fresh(ranks: Ranks, sharded: bool = True) -> TrainingStep:
    step = TrainingStep(build_policy(TINY), Featurizer(TINY, make_index()), SETTINGS, ranks)
    if not sharded:
        trainer = SETTINGS.trainer
        step.optimizer = PolicyOptimizer(
            step.policy, trainer.learning_rate, trainer.sparse_learning_rate, trainer.weight_decay
        )
    return step


def train(step: TrainingStep, first: int, last: int) -> None:
    """Steps with uneven shares; now and then one rank has nothing to train on, or brings a group."""
    for number in range(first, last):
        samples = sft(12)[step.ranks.rank * 5 :: 2 + number % 3]
        groups = [rl(build_policy(TINY))] if number % 6 == step.ranks.rank else []
        step.run([] if number % 5 == 3 and step.ranks.rank else samples, groups, number)


def everything_on_this_rank(folder: Path) -> None:
    """What the tests compare, made in one go, since processes start slowly."""
    with joined_ranks() as ranks:
        found: dict[str, dict[str, Tensor]] = {}
        for name in ("sharded", "plain"):
            step = fresh(ranks, name == "sharded")
            train(step, 0, STEPS)
            found[name] = weights(step) | step.state_dict() | {"moments": torch.tensor(moments_held(step))}
        found["resumed"] = resumed(ranks)
        halves = fresh(ranks)
        for number in range(3):
            halves.run(sft(8)[ranks.rank :: 2], [], number)
        found["halves"] = weights(halves)
        found["pretrained"] = pretrained(ranks)
        found["rows"] = summed_rows(ranks)
        found |= indifferent(ranks)
        found["told"] = told(ranks)
    torch.save(
        {f"{run}/{name}": tensor for run in found for name, tensor in found[run].items()}, folder / f"rank-{ranks.rank}.pt"
    )


def moments_held(step: TrainingStep) -> int:
    shards = step.optimizer.shards if isinstance(step.optimizer, ShardedOptimizer) else step.optimizer.dense.values()
    return sum(step.optimizer.adamw.state[shard]["exp_avg"].numel() for shard in shards)


def resumed(ranks: Ranks) -> dict[str, Tensor]:
    """As ``sharded``, with a stop in the middle."""
    step = fresh(ranks)
    train(step, 0, STEPS // 2)
    again = fresh(ranks)
    with torch.no_grad():
        for parameter, saved in zip(again.policy.parameters(), step.policy.parameters(), strict=True):
            parameter.copy_(saved)
    again.load_state_dict(step.state_dict())
    train(again, STEPS // 2, STEPS)
    return weights(again) | again.state_dict()


def pretrained(ranks: Ranks) -> dict[str, Tensor]:
    policy = build_policy(TINY)
    curves = pretrain(policy, [user(k) for k in range(20)], make_index(), PRETRAINING, lambda *_: None, ranks)
    curve = torch.tensor([loss for losses in curves.values() for loss in losses])
    return {name: parameter.detach() for name, parameter in policy.named_parameters()} | {"curve": curve}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each rank came to, by run and name."""
    return run_on_two_ranks(f"{HERE}:everything_on_this_rank", tmp_path_factory.mktemp("ranks"))


def of(run: str, found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{run}/"): tensor for name, tensor in found.items() if name.startswith(f"{run}/")}


def test_sharded_state_equals_plain_data_parallelism(ranks: list[dict[str, Tensor]]) -> None:
    sharded, plain = of("sharded", ranks[0]), of("plain", ranks[0])
    whole = int(plain.pop("moments"))
    assert [int(of("sharded", rank)["moments"]) for rank in ranks] == pytest.approx([whole / 2, whole / 2], abs=3)
    for name, tensor in plain.items():
        torch.testing.assert_close(sharded[name], tensor, atol=1e-6, rtol=0)
        assert torch.equal(sharded[name], of("sharded", ranks[1])[name])
    assert any((plain[name] - tensor).abs().max() > 0.01 for name, tensor in weights(fresh(Ranks())).items())


def test_a_resumed_run_equals_an_uninterrupted_one(ranks: list[dict[str, Tensor]]) -> None:
    for rank in ranks:
        sharded = of("sharded", rank)
        assert all(torch.equal(tensor, sharded[name]) for name, tensor in of("resumed", rank).items())


def test_two_ranks_train_as_one_with_all_samples(ranks: list[dict[str, Tensor]]) -> None:
    alone, halves = fresh(Ranks()), of("halves", ranks[0])
    for number in range(3):
        alone.run(sft(8), [], number)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(halves[name], tensor, atol=2e-4, rtol=0)


def test_pretraining_shares_its_batches_out_to_the_ranks(ranks: list[dict[str, Tensor]]) -> None:
    one, other = (of("pretrained", rank) for rank in ranks)
    assert all(torch.equal(one[name], other[name]) for name in one)
    alone = pretrained(Ranks())["curve"]
    torch.testing.assert_close(one["curve"], alone, atol=1e-3, rtol=0)
    assert alone[-5:].mean() < alone[:5].mean() - 0.1


def indifferent(ranks: Ranks) -> dict[str, dict[str, Tensor]]:
    """Weights before and after a step of nothing but feedback that says nothing, since no play has a rank."""
    heeding = SETTINGS.model_copy(update={"rl": SETTINGS.rl.model_copy(update={"lambda_feedback": 1.0})})
    step = TrainingStep(build_policy(TINY), Featurizer(TINY, make_index()), heeding, ranks)
    step.run(sft(8)[ranks.rank :: 2], [], 0)
    before = weights(step) | step.state_dict()
    step.run([], [], 1, [shown([float("nan")] * 3, [False] * 3)])
    return {"before": before, "after": weights(step) | step.state_dict()}


def test_feedback_that_says_nothing_changes_nothing(ranks: list[dict[str, Tensor]]) -> None:
    for rank in ranks:
        before = of("before", rank)
        assert all(torch.equal(tensor, before[name]) for name, tensor in of("after", rank).items())


def told(ranks: Ranks) -> dict[str, Tensor]:
    """What the ranks say to each other, rank 0 nothing and rank 1 more than nothing."""
    assert ranks.collect(b"") == [b"", b""]
    collected = b"|".join(ranks.collect(b"more than nothing" * ranks.rank))
    return {"numbers": torch.tensor(ranks.told(ranks.rank, 5, -1)), "bytes": torch.tensor(list(collected))}


def test_every_rank_hears_what_all_say_in_the_order_of_the_ranks(ranks: list[dict[str, Tensor]]) -> None:
    for rank in ranks:
        found = of("told", rank)
        assert found["numbers"].tolist() == [[0, 1], [5, 5], [-1, -1]]
        assert bytes(found["bytes"].tolist()) == b"|more than nothing"


def test_partitions_and_counts_are_shared_out() -> None:
    three = [Ranks(rank, 3) for rank in range(3)]
    assert [[p for p in range(7) if rank.owns(p)] for rank in three] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [rank.part(8) for rank in three] == [3, 3, 2]
    assert three[1].own_file(Path("a/journal.jsonl")) == Path("a/journal-1.jsonl")
    assert Ranks().own_file(Path("a/journal.jsonl")) == Path("a/journal.jsonl")


def sparse_gradients(rank: int) -> list[Tensor]:
    """Tables that both ranks, one rank, and no rank has read."""
    tables = [nn.Embedding(20, 4, sparse=True) for _ in range(3)]
    read: list[list[list[int]]] = [[[1, 7, 7], [3]], [[7, 19], []]]
    for k, ids in enumerate(read[rank]):
        if ids:
            (tables[k](torch.tensor(ids)) * (1 + rank + torch.arange(len(ids)).unsqueeze(1))).sum().backward()
    return [table.weight for table in tables]


def summed_rows(ranks: Ranks) -> dict[str, Tensor]:
    tables = sparse_gradients(ranks.rank)
    ranks.sum_rows(tables)
    return {f"{k}": t.grad.to_dense() for k, t in enumerate(tables) if t.grad is not None and t.grad.is_sparse}


def test_rows_of_tables_are_summed_over_ranks(ranks: list[dict[str, Tensor]]) -> None:
    own = [[table.grad for table in sparse_gradients(rank)] for rank in (0, 1)]
    for k, both in enumerate(zip(*own, strict=True)):
        expected = sum((one.to_dense() for one in both if one is not None), torch.zeros(20, 4))
        assert all(torch.equal(of("rows", rank)[str(k)], expected) for rank in ranks)


def test_an_incomplete_torchrun_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match=r"WORLD_SIZE is set but .*RANK.* not: start with torchrun"), joined_ranks():
        pass


def test_without_torchrun_a_process_is_alone() -> None:
    with joined_ranks() as ranks:
        assert (ranks, ranks.total(7)) == (Ranks(0, 1), 7)
        assert (ranks.told(3, 4), ranks.collect(b"x")) == ([[3], [4]], [b"x"])
