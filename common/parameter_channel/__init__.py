"""Parameters from the trainer to whoever generates, through Redis.

A version is the step of a committed checkpoint, and its parameters are that checkpoint's bytes. `publisher` writes a
version's chunks first and the `manifest` that names them last; `follower` verifies before anything is used. What changed
since the version before travels alone where that is less (`wire`), in bf16 to readers that log no probabilities, and the
readers of one machine share what one of them has fetched (`shared_copy`).
"""

from common.parameter_channel.connection import ChannelError, LeaseLostError, SupersededError
from common.parameter_channel.follower import REFUSALS, Follower
from common.parameter_channel.manifest import CHUNK_BYTES, Precision
from common.parameter_channel.publisher import Publisher

__all__ = [
    "CHUNK_BYTES",
    "REFUSALS",
    "ChannelError",
    "Follower",
    "LeaseLostError",
    "Precision",
    "Publisher",
    "SupersededError",
]
