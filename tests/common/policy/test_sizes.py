"""The shipped V2 profiles have the sizes whose names they bear."""

from __future__ import annotations

import pytest
import torch

from common.features import Featurizer
from common.policy import Policy, build_policy
from common.policy.audit import active_size, inner_size
from common.settings import Settings, load_settings
from tests.factories import make_context, make_index


def on_paper(settings: Settings) -> Policy:
    with torch.device("meta"):
        return build_policy(settings.policy)


@pytest.mark.parametrize(
    ("name", "billions", "learning_rate"),
    [
        ("0.1", 0.0885, 5.00e-4),
        ("0.2", 0.173, 3.54e-4),
        ("0.5", 0.4996, 2.24e-4),
        ("1", 1.040, 1.58e-4),
        ("2", 2.102, 1.12e-4),
        ("4", 4.056, 7.91e-5),
        ("8", 7.861, 5.59e-5),
    ],
)
def test_a_profile_has_its_size_and_learning_rate(name: str, billions: float, learning_rate: float) -> None:
    """18 d^2 parameters a block: 2 in cross-attention, 4 in self-attention, 12 in SwiGLU of 4 d."""
    settings = load_settings(f"v2-{name}b")
    policy = on_paper(settings)
    assert inner_size(policy) / 1e9 == pytest.approx(billions, rel=0.01)
    assert active_size(policy) == inner_size(policy)
    assert settings.pretrain.learning_rate == settings.trainer.learning_rate == learning_rate
    assert learning_rate == pytest.approx(5e-4 * (0.1 / float(name)) ** 0.5, rel=2e-3)


def test_the_mixture_has_four_billion_parameters_of_which_half_a_billion_are_active() -> None:
    """12 of 14 blocks with 53 routed and one shared expert of 3 * 1408^2, of which four are active: as many parameters as
    the dense 0.5B."""
    settings = load_settings("v2-moe-4b")
    policy = on_paper(settings)
    assert inner_size(policy) / 1e9 == pytest.approx(4.07, rel=0.01)
    assert active_size(policy) / 1e9 == pytest.approx(0.4996, rel=0.01)
    assert inner_size(policy) - active_size(policy) == 12 * (53 - 3) * 3 * 1408**2
    assert settings.pretrain.learning_rate == settings.trainer.learning_rate == 2.24e-4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_billion_lazy_parameters_train_on_one_machine() -> None:
    """One forward and backward pass of V2-1B in bf16 over fp32 weights, batch 1: some 11 GB of memory."""
    settings = load_settings("v2-1b").policy
    policy = build_policy(settings)
    inputs = Featurizer(settings, make_index())([make_context(600)])
    codes = torch.randint(0, settings.codes, (1, 5, settings.levels), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        loss = -policy.log_probs(policy.encode(inputs), codes).sum(-1).mean()
    loss.backward()
    assert abs(loss.item() - 3 * torch.tensor(8192.0).log().item()) < 5
    for name, parameter in policy.named_parameters():
        if not name.startswith(("event.", "static.")):  # tables of which this context may read nothing
            assert parameter.grad is not None, name
            gradient = parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
            assert gradient.isfinite().all(), name
            assert gradient.any(), name
