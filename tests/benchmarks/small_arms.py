"""A plan and policies of a size for tests."""

from __future__ import annotations

from benchmarks.simulated_sessions import Plan
from common.settings import SimulatorSettings

PLAN = Plan(
    simulator=SimulatorSettings(items=400, users=60, days=4, requests_per_user=16),
    codes=16,
    steps=40,
    batch=8,
    held_out=90,
)
SMALL = {"codes": 16, "short_length": 5, "positive_length": 4, "feature_width": 4, "item_buckets": 512}
"""Of every policy."""
