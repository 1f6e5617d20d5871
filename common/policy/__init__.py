"""The generative policy; imports torch and numpy only, so that it runs alone on any machine."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.policy.encoder_decoder import EncoderDecoder
from common.policy.lazy_decoder import LazyDecoder
from common.policy.policy import Memory, Policy, gather_codes
from common.policy.session_decoder import SessionDecoder
from common.settings import PolicySettings
from common.tensor_file import Parameters, packed, places

__all__ = [
    "ARCHITECTURES",
    "Memory",
    "Policy",
    "bare_policy",
    "build_policy",
    "gather_codes",
    "load_weights",
    "packed_weights",
    "take_over",
    "to_blob",
]

_KINDS = {"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64, "BOOL": torch.bool}
"""What a policy's weights are made of, by safetensors' names."""
POPULATE_READ = 22
"""MADV_POPULATE_READ of madvise(2), Linux 5.14, which Python does not name."""
ARCHITECTURES: dict[str, Callable[[PolicySettings], Policy]] = {
    "encoder_decoder": EncoderDecoder,
    "lazy_decoder": LazyDecoder,
    "session_decoder": SessionDecoder,
}


def build_policy(settings: PolicySettings, seed: int = 0) -> Policy:
    """A freshly initialised policy, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[settings.architecture](settings)


def bare_policy(settings: PolicySettings, device: torch.device | str = "cpu") -> Policy:
    """A policy whose weights are yet to come, by `take_over`; nothing was written to its memory, so that it takes none."""
    with _Undrawn(), torch.device(device):
        return build_policy(settings)


class _Undrawn(TorchFunctionMode):
    """Initial weights are neither drawn nor scaled.

    A policy built on the meta device and moved from there would do as well, but for that torch loads its compiler: most of a
    second, and more memory than a small policy has.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Leave out a call that only gives initial weights their values."""
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return given["tensor"]
        if func is torch.Tensor.mul:
            return args[0]
        return (torch.empty if func is torch.randn else func)(*args, **given)


def packed_weights(policy: Policy) -> mmap.mmap:
    """A copy of the weights as safetensors bytes: what a checkpoint holds and what the parameter channel carries."""
    return packed({name: tensor.detach().cpu().contiguous() for name, tensor in _weights(policy).items()})


def to_blob(policy: Policy) -> bytes:
    """The same as a bytes object, at the price of one copy more."""
    return bytes(packed_weights(policy))


def load_weights(policy: Policy, blob: Parameters) -> None:
    """Overwrite all weights in place, or none.

    Raises:
        ValueError: names or shapes differ from this policy's.
    """
    with torch.no_grad():
        for own, given in _fitting(policy, blob):
            own.copy_(given)


def take_over(policy: Policy, blob: Parameters) -> None:
    """Make the weights of ``blob`` the policy's, all or none, for a policy that is not trained.

    Of a mapped file it takes the pages themselves, if they are of its type and it computes on the CPU, and holds the
    mapping until it takes over others: all who map the file have the weights in memory once. Whoever writes to
    them gets pages of their own.

    Raises:
        ValueError: names or shapes differ from this policy's.
    """
    pairs = _fitting(policy, blob)
    if isinstance(blob, mmap.mmap) and sys.platform == "linux":
        _populate(blob)
    for own, given in pairs:
        own.data = given.to(own.device, own.dtype)  # not the parameter itself: modules may share it


def _populate(blob: mmap.mmap) -> None:
    """Have the kernel find a mapping's pages now; an older one does not, and then the first search finds them.

    `mmap.madvise` would hold the interpreter lock until it is done, 75 ms for every GiB in memory, in which no other thread
    could answer. ctypes lets go of it.
    """
    start = torch.frombuffer(blob, dtype=torch.uint8).data_ptr()
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(len(blob)), POPULATE_READ)


def _fitting(policy: Policy, blob: Parameters) -> list[tuple[Tensor, Tensor]]:
    """The policy's weights, and beside each the one given for it."""
    tensors = _mapped(blob) if isinstance(blob, mmap.mmap) else load(bytes(blob))
    own = _weights(policy)
    if tensors.keys() != own.keys():
        raise ValueError(f"weights do not fit the policy: differing tensors {sorted(tensors.keys() ^ own.keys())[:5]}")
    for name, weight in own.items():
        if weight.shape != tensors[name].shape:
            raise ValueError(f"tensor {name}: expected shape {tuple(weight.shape)}, got {tuple(tensors[name].shape)}")
    return [(weight, tensors[name]) for name, weight in own.items()]


def _mapped(blob: mmap.mmap) -> dict[str, Tensor]:
    """The tensors where they lie in the file."""
    return {
        place.name: torch.frombuffer(blob, dtype=_KINDS[place.kind], count=place.count, offset=place.start).view(place.shape)
        for place in places(blob)
    }


def _weights(policy: Policy) -> dict[str, Tensor]:
    """All that a policy's answers depend on: parameters and persistent buffers (the biases of mixtures of experts)."""
    kept = policy.state_dict().keys()
    # Not the state dict itself: that names a table once for every module which shares it.
    named = dict(policy.named_parameters()) | dict(policy.named_buffers())
    return {name: tensor for name, tensor in named.items() if name in kept}
