"""Data parallelism: several processes (ranks) train one policy, each on its own samples.

Started by torchrun, which sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Only tensors travel, nothing is pickled.
Waits for: the other ranks, in every collective. Unblocked by: their arrival, their end (at once), or the timeout; the last
two end this process, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

TIMEOUT_S = 300.0


class RanksError(RuntimeError):
    """The ranks cannot go on together: one of them has ended, or did not come in time."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. Every collective raises RanksError when another rank is gone."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this rank does what is done once for all of them."""
        return self.rank == 0

    def owns(self, partition: int) -> bool:
        """Whether a partition of the stream is this rank's."""
        return partition % self.world == self.rank

    def part(self, count: int) -> int:
        """This rank's even part of ``count``; lower ranks take the remainder."""
        return count // self.world + (self.rank < count % self.world)

    def own_file(self, path: Path) -> Path:
        """This rank's file where one process has ``path``: ``journal-1.jsonl`` for ``journal.jsonl``."""
        return path if self.world == 1 else path.with_stem(f"{path.stem}-{self.rank}")

    def told(self, *numbers: int) -> list[list[int]]:
        """For each number, what all ranks say, in the order of the ranks; the same answer on each of them."""
        if self.world == 1:
            return [[number] for number in numbers]
        whole = torch.empty(self.world, len(numbers), dtype=torch.int64)
        self.gather(whole, torch.tensor([numbers], dtype=torch.int64))
        rows: list[list[int]] = whole.T.tolist()
        return rows

    def collect(self, data: bytes) -> list[bytes]:
        """What all ranks bring, in the order of the ranks."""
        if self.world == 1:
            return [data]
        (sizes,) = self.told(len(data))
        longest = max(1, *sizes)
        whole = torch.empty(self.world, longest, dtype=torch.uint8)
        own = torch.frombuffer(bytearray(data.ljust(longest, b"\0")), dtype=torch.uint8)
        self.gather(whole, own.unsqueeze(0))
        return [part[:size].numpy().tobytes() for part, size in zip(whole, sizes, strict=True)]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.world > 1:
            with _together():
                dist.all_reduce(tensor)
        return tensor

    def total(self, count: int) -> int:
        """A count summed over all ranks."""
        return int(self.sum(torch.tensor(count))) if self.world > 1 else count

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum every dense gradient over all ranks, in one message per data type; a missing one counts as zero."""
        if self.world == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            by_type.setdefault(parameter.dtype, []).append(parameter.grad)
        for gradients in by_type.values():
            flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def sum_rows(self, tables: Iterable[Tensor]) -> None:
        """Sum every table's sparse gradient over all ranks; only the rows that a rank has travel.

        Every rank adds the same rows in the same order and gets the same bits.
        """
        if self.world == 1:
            return
        for table in tables:
            table.grad = self._union((_no_rows(table) if table.grad is None else table.grad).coalesce())

    def _union(self, own: Tensor) -> Tensor:
        counts = torch.empty(self.world, dtype=torch.int64, device=own.device)
        self.gather(counts, torch.tensor([own._nnz()], device=own.device))
        most = int(counts.max())
        present = (torch.arange(most, device=own.device) < counts.unsqueeze(1)).flatten()
        rows, values = (
            self._gathered(functional.pad(part, (0, 0, 0, most - len(part))))[present]
            for part in (own.indices().T, own.values())
        )
        return torch.sparse_coo_tensor(rows.T, values, own.shape).coalesce()

    def _gathered(self, part: Tensor) -> Tensor:
        whole = part.new_empty(self.world * len(part), part.shape[1])
        self.gather(whole, part)
        return whole

    def gather(self, whole: Tensor, part: Tensor) -> None:
        """Fill ``whole`` (world * n, …) with every rank's ``part`` (n, …), in the order of the ranks."""
        with _together():
            dist.all_gather_into_tensor(whole, part)


def _no_rows(table: Tensor) -> Tensor:
    """A sparse gradient of a table's shape without any row."""
    indices = torch.empty((1, 0), dtype=torch.int64, device=table.device)
    return torch.sparse_coo_tensor(indices, table.new_empty((0, table.shape[1])), table.shape)


@contextmanager
def joined_ranks(backend: str = "gloo", timeout_s: float = TIMEOUT_S) -> Iterator[Ranks]:
    """This process as torchrun started it; alone where it did not.

    Raises:
        ValueError: torchrun's environment is incomplete.
        RanksError: the other ranks did not come in time.
    """
    if "WORLD_SIZE" not in os.environ:
        yield Ranks()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(f"WORLD_SIZE is set but {', '.join(missing)} not: start with torchrun")
    with _together():
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        place = f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
        raise RanksError(f"{place} lost the others: {str(error).splitlines()[0]}") from error
