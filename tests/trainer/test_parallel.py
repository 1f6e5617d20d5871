"""Data parallelism on two real processes: sharded state changes nothing, and two ranks train as one would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.features import Featurizer
from common.policy import build_policy
from tests.factories import TINY, make_index
from tests.trainer.test_step import SETTINGS, rl, sft
from tests.trainer.two_ranks import run_on_two_ranks
from trainer.optimizer import PolicyOptimizer, ShardedOptimizer
from trainer.parallel import Ranks, joined_ranks
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


def steps_on_this_rank(folder: Path, sharded: str) -> None:
    with joined_ranks() as ranks:
        step = fresh(ranks, sharded == "sharded")
        train(step, 0, STEPS)
        shards = step.optimizer.shards if isinstance(step.optimizer, ShardedOptimizer) else step.optimizer.dense.values()
        moments = sum(step.optimizer.adamw.state[shard]["exp_avg"].numel() for shard in shards)
        found = weights(step) | step.state_dict() | {"moments": torch.tensor(moments)}
        torch.save(found, folder / f"rank-{ranks.rank}.pt")


def resumed_steps_on_this_rank(folder: Path) -> None:
    with joined_ranks() as ranks:
        step = fresh(ranks)
        train(step, 0, STEPS // 2)
        policy, state = weights(step), step.state_dict()
        again = fresh(ranks)
        with torch.no_grad():
            for name, parameter in again.policy.named_parameters():
                parameter.copy_(policy[f"weight.{name}"])
        again.load_state_dict(state)
        train(again, STEPS // 2, STEPS)
        torch.save(weights(again) | again.state_dict(), folder / f"rank-{ranks.rank}.pt")


def half_of_the_samples_on_this_rank(folder: Path) -> None:
    with joined_ranks() as ranks:
        step = fresh(ranks)
        for number in range(3):
            step.run(sft(8)[ranks.rank :: 2], [], number)
        torch.save(weights(step), folder / f"rank-{ranks.rank}.pt")


def test_sharded_state_equals_plain_data_parallelism_and_survives_a_restart(tmp_path: Path) -> None:
    results = {}
    for name, function in (("sharded", "steps"), ("plain", "steps"), ("resumed", "resumed_steps")):
        folder = tmp_path / name
        folder.mkdir()
        arguments = [] if name == "resumed" else [name]
        results[name] = run_on_two_ranks(f"{HERE}:{function}_on_this_rank", folder, *arguments)
    sharded, plain, resumed = (results[name] for name in ("sharded", "plain", "resumed"))
    begin = weights(fresh(Ranks()))
    for name, tensor in plain[0].items():
        if name == "moments":
            continue
        torch.testing.assert_close(sharded[0][name], tensor, atol=1e-6, rtol=0)
        assert torch.equal(sharded[0][name], sharded[1][name])
        assert torch.equal(resumed[0][name], sharded[0][name]), name
    assert any((plain[0][name] - tensor).abs().max() > 0.01 for name, tensor in begin.items())
    whole = int(plain[0]["moments"])
    assert [int(one["moments"]) for one in sharded] == pytest.approx([whole / 2, whole / 2], abs=3)


def test_two_ranks_train_as_one_with_all_samples(tmp_path: Path) -> None:
    halves = run_on_two_ranks(f"{HERE}:half_of_the_samples_on_this_rank", tmp_path)
    alone = fresh(Ranks())
    for number in range(3):
        alone.run(sft(8), [], number)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(halves[0][name], tensor, atol=2e-4, rtol=0)


def sparse_gradients(rank: int) -> list[Tensor]:
    """Tables that both ranks, one rank, and no rank has read."""
    tables = [nn.Embedding(20, 4, sparse=True) for _ in range(3)]
    read: list[list[list[int]]] = [[[1, 7, 7], [3]], [[7, 19], []]]
    for k, ids in enumerate(read[rank]):
        if ids:
            (tables[k](torch.tensor(ids)) * (1 + rank + torch.arange(len(ids)).unsqueeze(1))).sum().backward()
    return [table.weight for table in tables]


def summed_rows_on_this_rank(folder: Path) -> None:
    with joined_ranks() as ranks:
        tables = sparse_gradients(ranks.rank)
        ranks.sum_rows(tables)
        gradients = {f"{k}": t.grad.to_dense() for k, t in enumerate(tables) if t.grad is not None and t.grad.is_sparse}
        torch.save(gradients, folder / f"rank-{ranks.rank}.pt")


def test_rows_of_tables_are_summed_over_ranks(tmp_path: Path) -> None:
    found = run_on_two_ranks(f"{HERE}:summed_rows_on_this_rank", tmp_path)
    own = [[table.grad for table in sparse_gradients(rank)] for rank in (0, 1)]
    for k, both in enumerate(zip(*own, strict=True)):
        expected = sum((one.to_dense() for one in both if one is not None), torch.zeros(20, 4))
        assert torch.equal(found[0][str(k)], expected)
        assert torch.equal(found[1][str(k)], expected)


def test_an_incomplete_torchrun_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match=r"WORLD_SIZE is set but .*RANK.* not: start with torchrun"), joined_ranks():
        pass


def test_without_torchrun_a_process_is_alone() -> None:
    with joined_ranks() as ranks:
        assert (ranks, ranks.total(7)) == (Ranks(0, 1), 7)
