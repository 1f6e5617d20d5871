"""What a policy generates for the users to judge by, in true figures.

Widths are separate beam searches: the first items of a wide one are not what a narrow one finds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.context import Context
from common.messages import NO_ITEM
from common.policy import Policy
from deploy.experiments.laboratory import Laboratory
from rollout.engine import GenerationEngine

USERS_AT_ONCE = 64
LIST = 10
"""Items shown: the first so many of a constrained beam of `LIST_WIDTH`."""
LIST_WIDTH = 64
Figures = dict[str, list[float]]


def judge(policy: Policy, laboratory: Laboratory, contexts: Sequence[Context], widths: Sequence[int]) -> Figures:
    """Per user, in their order:

    ``KIND@K``: the best among the items of a constrained beam of each width K, of the true reward and of each of its parts
    (Pass@K); ``mean_reward@K``: their mean. Means over a list of `LIST` items: ``list_reward``, ``list_learned`` and
    ``list_evaluator`` (P-Scores of the model that scores rollouts and of the other one), ``list_viral`` (share) and
    ``list_log_duration`` (of seconds). ``legality``: share of items among the candidates of a free beam of `LIST_WIDTH`.
    """
    found: Figures = {}
    for width in sorted({*widths, LIST_WIDTH}):
        engine = GenerationEngine(policy, laboratory.index, width, constrained=True)
        for context, items in zip(contexts, _generated(engine, contexts), strict=True):
            if width in widths:
                _add(found, _pass(laboratory, context, items, width))
            if width == LIST_WIDTH:
                _add(found, _list(laboratory, context, items[:LIST]))
    free = GenerationEngine(policy, laboratory.index, LIST_WIDTH)
    found["legality"] = [float((items != NO_ITEM).mean()) for items in _generated(free, contexts)]
    return found


def _generated(engine: GenerationEngine, contexts: Sequence[Context]) -> list[np.ndarray]:
    out = []
    for start in range(0, len(contexts), USERS_AT_ONCE):
        out += [made.item_ids for made in engine.generate(list(contexts[start : start + USERS_AT_ONCE]))]
    return out


def _pass(laboratory: Laboratory, context: Context, items: np.ndarray, width: int) -> dict[str, float]:
    truth = laboratory.truth
    kinds = truth.world.expected_labels(context.user_id, items, truth.day) | {"reward": truth(context, items)}
    best = {f"{kind}@{width}": float(values.max()) for kind, values in kinds.items()}
    return best | {f"mean_reward@{width}": float(kinds["reward"].mean())}


def _list(laboratory: Laboratory, context: Context, items: np.ndarray) -> dict[str, float]:
    truth = laboratory.truth
    return {
        "list_reward": float(truth(context, items).mean()),
        "list_learned": float(laboratory.learned(context, items).mean()),
        "list_evaluator": float(laboratory.evaluator(context, items).mean()),
        "list_viral": float(truth.world.viral[items].mean()),
        "list_log_duration": float(np.log(truth.world.duration_s[items]).mean()),
    }


def _add(found: Figures, one: dict[str, float]) -> None:
    for name, value in one.items():
        found.setdefault(name, []).append(value)
