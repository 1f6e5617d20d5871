"""A checkpoint of several ranks: their parts gathered into one, and each rank's part taken out of it.

Weights and optimizer are the same on every rank. Positions and requests belong to the rank that owns their partition,
session filters and play times to their rank by name. Counters add up, and rank 0 carries the sum on.
"""

from __future__ import annotations

from collections import Counter

import safetensors.torch

from trainer.checkpoint import Checkpoint, RunState
from trainer.frontier import FrontierState
from trainer.parallel import Ranks

OWN = ("filter.", "plays.")
"""Names of tensors that each rank has of its own begin with one of these."""


def gathered(own: Checkpoint, ranks: Ranks) -> Checkpoint:
    """All ranks' images as one, the same on each of them; a collective."""
    if ranks.world == 1:
        return own
    states = [RunState.model_validate_json(data) for data in ranks.collect(own.state.model_dump_json().encode())]
    filters = ranks.collect(safetensors.torch.save({n: t for n, t in own.trainer.items() if n.startswith(OWN)}))
    trainer = {name: tensor for name, tensor in own.trainer.items() if not name.startswith(OWN)}
    for rank, data in enumerate(filters):
        trainer |= {f"{_of(rank)}{name}": tensor for name, tensor in safetensors.torch.load(data).items()}
    return Checkpoint(own.policy, trainer, _merged(states))


def part_of(whole: Checkpoint, ranks: Ranks) -> Checkpoint:
    """Inverse of `gathered`: what this rank goes on from."""
    if ranks.world == 1:
        return whole
    state, own = whole.state, _of(ranks.rank)
    frontier = FrontierState(
        low={partition: low for partition, low in state.frontier.low.items() if ranks.owns(partition)},
        outstanding=[one for one in state.frontier.outstanding if ranks.owns(one[0])],
        settled=[position for position in state.frontier.settled if ranks.owns(position[0])],
    )
    changes = {
        "sessions": {partition: end for partition, end in state.sessions.items() if ranks.owns(partition)},
        "groups": {partition: end for partition, end in state.groups.items() if ranks.owns(partition)},
        "frontier": frontier,
        "counters": state.counters if ranks.leads else {},
    }
    trainer = {name.removeprefix(own): tensor for name, tensor in whole.trainer.items()}
    return Checkpoint(whole.policy, trainer, state.model_copy(update=changes))


def _merged(states: list[RunState]) -> RunState:
    counters: Counter[str] = Counter()
    for state in states:
        counters.update(state.counters)
    frontiers = [state.frontier for state in states]
    changes = {
        "sessions": {partition: end for state in states for partition, end in state.sessions.items()},
        "groups": {partition: end for state in states for partition, end in state.groups.items()},
        "frontier": FrontierState(
            low={partition: low for frontier in frontiers for partition, low in frontier.low.items()},
            outstanding=sorted((one for frontier in frontiers for one in frontier.outstanding), key=lambda one: one[:2]),
            settled=sorted(position for frontier in frontiers for position in frontier.settled),
        ),
        "counters": dict(counters),
    }
    return states[0].model_copy(update=changes)


def _of(rank: int) -> str:
    return f"rank-{rank}."
