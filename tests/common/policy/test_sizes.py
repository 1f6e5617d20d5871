"""The shipped V2 profiles have the sizes whose names they bear."""

from __future__ import annotations

import pytest
import torch

from common.policy import build_policy
from common.settings import load_settings

EMBEDDINGS = ("codes.", "event.", "user.", "static.", "positions.", "begin", "level", "heads.")
"""Tables of inputs and outputs, which the paper's sizes leave out."""


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
    with torch.device("meta"):
        policy = build_policy(settings.policy)
    inner = sum(p.numel() for key, p in policy.named_parameters() if not key.startswith(EMBEDDINGS))
    assert inner / 1e9 == pytest.approx(billions, rel=0.01)
    assert settings.pretrain.learning_rate == settings.trainer.learning_rate == learning_rate
    assert learning_rate == pytest.approx(5e-4 * (0.1 / float(name)) ** 0.5, rel=2e-3)
