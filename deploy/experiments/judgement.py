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
LIST_WIDTH = 64
"""Of the constrained beam from which a list is taken."""
Figures = dict[str, list[float]]


def judge(policy: Policy, laboratory: Laboratory, contexts: Sequence[Context], widths: Sequence[int], shown: int) -> Figures:
    """Per user, in their order:

    ``KIND@K``: the best among the items of a constrained beam of each width K, of the true reward and of each of its parts
    (Pass@K); ``mean_reward@K``: their mean. Means over a list, the first ``shown`` items of a constrained beam of
    `LIST_WIDTH`: ``list_reward``, ``list_learned`` and ``list_evaluator`` (by the model that scores rollouts and by
    the other one), ``list_viral`` (share), ``list_log_duration`` (of seconds) and the parts of the true reward, such as
    ``list_like``. The same as ``selected_…`` of those items of the beam that the first model prefers, and as ``p_score_…``
    of those that its P-Score prefers. ``legality``: share of items among the candidates of a free beam of `LIST_WIDTH`.
    """
    found: Figures = {}
    for width in sorted({*widths, LIST_WIDTH}):
        engine = GenerationEngine(policy, laboratory.index, width, constrained=True)
        for context, items in zip(contexts, _generated(engine, contexts), strict=True):
            if width in widths:
                _add(found, _pass(laboratory, context, items, width))
            if width == LIST_WIDTH:
                _add(found, _list("list", laboratory, context, items[:shown]))
                for name, source in (("selected", laboratory.learned), ("p_score", laboratory.p_score)):
                    preferred = np.argsort(-source(context, items), kind="stable")[:shown]
                    _add(found, _list(name, laboratory, context, items[preferred]))
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


def _list(name: str, laboratory: Laboratory, context: Context, items: np.ndarray) -> dict[str, float]:
    truth = laboratory.truth
    values = truth.world.expected_labels(context.user_id, items, truth.day) | {
        "reward": truth(context, items),
        "learned": laboratory.learned(context, items),
        "evaluator": laboratory.evaluator(context, items),
        "viral": truth.world.viral[items],
        "log_duration": np.log(truth.world.duration_s[items]),
    }
    return {f"{name}_{figure}": float(of_items.mean()) for figure, of_items in values.items()}


def _add(found: Figures, one: dict[str, float]) -> None:
    for name, value in one.items():
        found.setdefault(name, []).append(value)
