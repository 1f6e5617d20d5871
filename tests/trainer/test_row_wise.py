"""Row-wise Adagrad against the formula applied row by row, and on the tables of a policy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.features import Featurizer
from common.policy import build_policy
from tests.factories import TINY, make_context, make_index
from trainer.optimizer import PolicyOptimizer
from trainer.row_wise import EPS, ROW_SUM, RowWiseAdagrad, row_tables

RATE = 0.05


def train(embedding: nn.Embedding, optimizer: RowWiseAdagrad, steps: range) -> list[Tensor]:
    """Steps on a loss that reads rows 0 (padding) to 30, most of them several times; their gradients, made dense."""
    gradients = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 31, (4, 9), generator=generator)
        aim = torch.randn(4, 9, embedding.embedding_dim, generator=generator)
        embedding.weight.grad = None
        ((embedding(ids) - aim) ** 2).sum().backward()
        gradients += [weight.grad.to_dense() for weight in embedding.parameters() if weight.grad is not None]
        optimizer.step()
    return gradients


def fresh() -> tuple[nn.Embedding, RowWiseAdagrad]:
    embedding = nn.Embedding(50, 6, padding_idx=0, sparse=True)
    with torch.no_grad():
        embedding.weight.normal_(generator=torch.Generator().manual_seed(0))
        embedding.weight[0].zero_()
    return embedding, RowWiseAdagrad([embedding.weight], RATE)


def test_updates_equal_the_formula_row_by_row_and_leave_other_rows_alone() -> None:
    embedding, optimizer = fresh()
    expected, sums = fresh()[0].weight.detach().clone(), [0.0] * 50
    gradients = train(embedding, optimizer, range(20))
    assert len(gradients) == 20
    for gradient in gradients:
        for row in range(50):
            sums[row] += float(gradient[row].double().square().mean())
            expected[row] -= RATE * gradient[row] / (sums[row] ** 0.5 + EPS)
    torch.testing.assert_close(embedding.weight.detach(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(optimizer.state[embedding.weight][ROW_SUM], torch.tensor(sums), rtol=1e-5, atol=0)
    assert torch.equal(embedding.weight[31:], fresh()[0].weight[31:])
    assert not torch.equal(embedding.weight[1:31], fresh()[0].weight[1:31])
    assert not embedding.weight[0].any()


def test_equals_dense_adagrad_where_rows_have_one_element() -> None:
    embedding, dense = nn.Embedding(9, 1, sparse=True), nn.Embedding(9, 1)
    dense.load_state_dict(embedding.state_dict())
    optimizers = RowWiseAdagrad([embedding.weight], RATE), torch.optim.Adagrad([dense.weight], RATE, eps=EPS)
    for step in range(10):
        ids = torch.tensor([1, 3, 3, step % 9])
        for one, optimizer in zip((embedding, dense), optimizers, strict=True):
            one.weight.grad = None
            ((one(ids) - 1) ** 2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(embedding.weight, dense.weight, atol=1e-7, rtol=0)


def test_a_table_without_gradient_rests() -> None:
    embedding, optimizer = fresh()
    optimizer.step()
    assert torch.equal(embedding.weight, fresh()[0].weight)


def test_the_id_tables_of_a_policy_are_row_wise_and_continue_from_stored_sums() -> None:
    """Rows of items that no history holds stay as they were, bit for bit; all else is resumable by name."""
    policy, index = build_policy(TINY), make_index()
    begin = {name: table.detach().clone() for name, table in row_tables(policy).items()}
    assert set(begin) == {"event.vid.weight", "event.author.weight", "event.tag.weight", "user.weight", "static.weight"}
    optimizer = PolicyOptimizer(policy, 1e-3, RATE, 0.1)
    inputs = Featurizer(TINY, index)([make_context(20)])
    for _ in range(3):
        optimizer.zero_grad()
        policy.log_probs(policy.encode(inputs), torch.ones((1, 1, 3), dtype=torch.long)).sum().backward()
        optimizer.step()
    read = {*inputs.short.vid.unique().tolist(), *inputs.positive.vid.unique().tolist()} - {0}
    moved = (policy.event.vid.weight != begin["event.vid.weight"]).any(1).nonzero().flatten().tolist()
    assert sorted(read) == moved
    state = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    assert {name for name in state if name.endswith(ROW_SUM)} == {f"{name}.{ROW_SUM}" for name in begin}
    other = PolicyOptimizer(build_policy(TINY, 1), 1e-3, RATE, 0.1)
    other.load_tensors(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.tensors().items())


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_both_rates_follow_the_schedule(factor: float) -> None:
    optimizer = PolicyOptimizer(build_policy(TINY), 1e-3, RATE, 0.1)
    optimizer.scale_learning_rate(factor)
    assert [group["lr"] for group in optimizer.row_wise.param_groups] == [RATE * factor]
    assert [group["lr"] for group in optimizer.adamw.param_groups] == [1e-3 * factor] * 2
