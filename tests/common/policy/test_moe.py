from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from common.features import Featurizer
from common.policy import build_policy, load_weights, to_blob
from common.policy.moe import MixtureOfExperts, Routing, all_loads, balance, expert_width, max_violation
from common.settings import MoeSettings
from tests.factories import MIXED, make_context, make_index


def make(width: int = 16, seed: int = 0, **settings: object) -> MixtureOfExperts:
    torch.manual_seed(seed)
    return MixtureOfExperts(width, MoeSettings.model_validate({"experts": 4, "width": 24, "decoder_blocks": [0]} | settings))


def loop(mixture: MixtureOfExperts, x: Tensor) -> Tensor:
    """The plain reading: every expert on every token, weighed by a dense matrix of gates."""
    affinity = torch.sigmoid(x @ mixture.router.weight.T)
    chosen = torch.zeros_like(affinity).scatter(-1, (affinity + mixture.bias).topk(mixture.settings.active).indices, 1)
    gates = affinity * chosen / (affinity * chosen).sum(-1, keepdim=True)
    out = torch.zeros_like(x)
    for expert, (up, down) in enumerate(zip(mixture.up, mixture.down, strict=True)):
        gate, value = (x @ up).chunk(2, -1)
        weight = gates[..., expert : expert + 1] if expert < mixture.settings.experts else 1.0
        out = out + weight * ((functional.silu(gate) * value) @ down)
    return out


@pytest.mark.parametrize("shared", [0, 2])
@pytest.mark.parametrize("shape", [(1, 16), (5, 16), (3, 4, 2, 16)])
def test_the_sorted_pass_equals_a_loop_over_experts(shape: tuple[int, ...], shared: int) -> None:
    mixture = make(experts=6, active=3, shared=shared)
    mixture.bias[2] = -9.0  # one that nobody selects
    x = torch.randn(shape, requires_grad=True)
    weight = torch.randn(shape)
    inputs = [x, *mixture.parameters()]
    with Routing() as routing:
        given = mixture(x)
    torch.testing.assert_close(given, loop(mixture, x), atol=1e-5, rtol=0)
    assert routing.loads[mixture][2] == 0
    gradients = torch.autograd.grad((given * weight).sum(), inputs)
    expected = torch.autograd.grad((loop(mixture, x) * weight).sum(), inputs)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert not gradients[2][2].any()


def route_of_logits(mixture: MixtureOfExperts, logits: list[float]) -> Tensor:
    """The gate of every expert for a token with these router outputs, 0 where it is not selected."""
    with torch.no_grad():
        mixture.router.weight[:, 0] = torch.tensor(logits)
        chosen, gates, _ = mixture.route(torch.eye(16)[:1])
    return torch.zeros(len(logits)).scatter(0, chosen[0], gates[0])


def test_biases_select_and_affinities_weigh() -> None:
    mixture = make()
    mixture.bias.copy_(torch.tensor([-0.3, 0.0, 0.0, 0.5]))
    gates = route_of_logits(mixture, [2.0, 1.0, 0.0, -1.0])
    torch.testing.assert_close(gates, torch.tensor([0, 0.7311, 0, 0.2689]), atol=1e-4, rtol=0)
    mixture.bias += 0.7
    shifted = route_of_logits(mixture, [2.0, 1.0, 0.0, -1.0])
    assert torch.equal(shifted, gates)


def test_gates_survive_affinities_that_underflow() -> None:
    gates = route_of_logits(make(experts=2), [-200.0, -201.0])
    torch.testing.assert_close(gates, torch.tensor([0.7311, 0.2689]), atol=1e-4, rtol=0)


def test_a_bias_moves_towards_the_mean_load_and_has_no_gradient() -> None:
    mixture = make(gamma=0.01)
    mixture.balance(torch.tensor([10, 0, 5, 5]))
    torch.testing.assert_close(mixture.bias, torch.tensor([-0.01, 0.01, 0.0, 0.0]))
    mixture(torch.randn(9, 16)).sum().backward()
    assert mixture.bias.grad is None
    assert not mixture.bias.requires_grad
    assert mixture.router.weight.grad is not None


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loads_even_out_without_an_auxiliary_loss(seed: int) -> None:
    """Tokens that have much in common prefer the same experts; fails if the excess does not halve in 500 steps."""
    mixture = make(experts=8, seed=seed, gamma=0.01)
    common = 2 * torch.randn(16)
    violations = []
    for _ in range(500):
        with Routing() as routing, torch.no_grad():
            mixture(common + torch.randn(256, 16))
        assert routing.auxiliary_loss == 0
        violations.append(balance([mixture], [routing]))
    assert violations[-1] is not None
    assert violations[0] is not None
    assert violations[-1] < 0.5 * violations[0]


def test_violation_and_sums_over_passes() -> None:
    mixture, x = make(), torch.randn(40, 16)
    assert max_violation(torch.tensor([10, 0, 5, 5])) == 1.0
    assert max_violation(torch.zeros(4, dtype=torch.int64)) == 0.0
    assert balance([], [Routing()]) is None
    with Routing() as whole:
        mixture(x)
    parts = []
    for part in x.split(15):
        with Routing() as routing:
            mixture(part)
        parts.append(routing)
    mixture(x)  # outside: not counted
    assert all_loads([mixture], parts)[mixture].equal(whole.loads[mixture])
    assert whole.loads[mixture].sum() == 2 * len(x)


def test_padding_is_no_load() -> None:
    """A batch with padded histories and targets counts what its contexts count one by one."""
    policy, featurize = build_policy(MIXED), Featurizer(MIXED, make_index())
    contexts = [make_context(0), make_context(2, seed=1), make_context(60, seed=2)]
    codes = torch.randint(0, MIXED.codes, (3, 4, 3), generator=torch.Generator().manual_seed(0))
    present = torch.arange(4) < torch.tensor([[1], [4], [2]])
    with Routing() as together:
        policy.log_probs(policy.encode(featurize(contexts)), codes, present)
    with Routing() as alone:
        for row, context in enumerate(contexts):
            policy.log_probs(policy.encode(featurize([context])), codes[row : row + 1, : present[row].sum()])
    assert len(together.loads) == 2
    for mixture, load in together.loads.items():
        assert load.equal(alone.loads[mixture])
    assert 2 * 3 * present.sum() in [load.sum() for load in together.loads.values()]


def test_the_auxiliary_loss_is_alpha_in_balance_and_grows_with_skew() -> None:
    mixture = make(experts=2, balancing="auxiliary", alpha=0.5)
    chosen = torch.tensor([[0], [1]])
    for affinity, picks, expected in (
        (torch.tensor([[0.4, 0.4], [0.2, 0.2]]), chosen, 0.5),
        (torch.tensor([[0.9, 0.1], [0.3, 0.1]]), chosen * 0, 0.5 * 2 * (0.9 + 0.75) / 2),
    ):
        routing = Routing()
        routing.record(mixture, picks, affinity, torch.Size([2]))
        assert float(routing.auxiliary_loss) == pytest.approx(expected)


def test_the_router_stays_in_fp32_under_autocast() -> None:
    mixture, x = make(), torch.randn(200, 16)
    expected, gates = mixture(x), mixture.route(x)[1]
    with torch.autocast("cpu", torch.bfloat16):
        given = mixture(x)
        assert mixture.route(x)[1].equal(gates)
    assert given.dtype == torch.float32
    difference = (given - expected).abs().max()
    assert 0 < difference < 0.05 * expected.abs().max()


def test_biases_travel_with_the_weights() -> None:
    policy, other = build_policy(MIXED), build_policy(MIXED, seed=1)
    for mixture in policy.modules():
        if isinstance(mixture, MixtureOfExperts):
            mixture.balance(torch.tensor([3, 1, 2, 2]))
    load_weights(other, to_blob(policy))
    assert to_blob(other) == to_blob(policy)
    changed = [module.bias for module in other.modules() if isinstance(module, MixtureOfExperts)]
    assert len(changed) == 2
    assert all(bias.any() for bias in changed)


@pytest.mark.parametrize(("width", "expected"), [(128, 384), (256, 768), (512, 1408), (1024, 2816)])
def test_expert_widths(width: int, expected: int) -> None:
    assert expert_width(width) == expected
