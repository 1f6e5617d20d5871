"""What simulated users do with a list that the policy made for them, in place of the one that the log shows them.

The answer is that of the log's own users: by their interests on that day, tired of the topics they have just seen. It enters
no history, so that all arms of an experiment have the same contexts.
"""

from __future__ import annotations

import numpy as np

from common.context import Context, UserEvents
from deploy.data.simulator_cascade import FATIGUE, RECENT, answers
from deploy.data.simulator_world import Ints, World


def answer(world: World, context: Context, item_ids: Ints, day: int, rng: np.random.Generator) -> UserEvents:
    """The events of a list shown to the user of a context on a log day, in the list's order, all at the request's time."""
    seen = world.topic[context.events.item_id[-RECENT:], 0]
    tired = (world.topic[item_ids, 0][:, None] == seen).sum(1)
    affinity = np.asarray(world.affinity(context.user_id, item_ids, day) - FATIGUE * tired, np.float32)
    play_ms, labels = answers(world, item_ids, affinity, rng)
    times = np.full(len(item_ids), context.time_ms, np.int64)
    duration_ms = np.rint(world.duration_s[item_ids].astype(np.float64) * 1000).astype(np.int64)
    return UserEvents(item_ids, times, play_ms, duration_ms, labels)
