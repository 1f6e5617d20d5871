"""The best extensions of beams by one code: by scoring all of them, or exactly the same ones by scoring few.

Shape legend: R users, B beams, D width, V codes per level, W requested width, n rows of one user, C columns of them (all
codes, or the children in a trie).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from common.tensor_trie import TensorTrie

BLOCK = 2**21
"""Logits that are scored at a time: few enough to stay in the cache between the passes over them, and to leave beams that
their bound then spares."""

LEGAL_BLOCK = 2**22
"""The same with a trie: only children are read again, and their bound spares few."""

SEGMENT = 64

ROUNDING = 1e-4
"""More than sums of log-probabilities differ by, taken in another order."""

NO_NUMBERS = "the policy's log-probabilities are no numbers: its weights, or a user's features, are not finite"

Head = Callable[[Tensor], Tensor]
"""Decoder output (…, D) -> logits (…, V)."""


@dataclass(frozen=True, slots=True)
class Extensions:
    """The best extensions of each user's beams, best first, all (R, W)."""

    score: Tensor
    """Log-probability of the sequence so far."""
    parent: Tensor
    code: Tensor
    log_prob: Tensor
    """Of the code alone."""
    node: Tensor | None
    """Of the trie, where there is one."""

    @staticmethod
    def stack(users: list[Extensions]) -> Extensions:
        """Extensions (W_r,) of single users side by side; where a user has fewer the score is -inf."""
        width = max(len(one.score) for one in users)

        def joined(name: str, fill: float) -> Tensor:
            rows = [getattr(one, name) for one in users]
            return torch.stack([torch.nn.functional.pad(row, (0, width - len(row)), value=fill) for row in rows])

        node = None if users[0].node is None else joined("node", 0)
        minus = float("-inf")
        return Extensions(joined("score", minus), joined("parent", 0), joined("code", 0), joined("log_prob", minus), node)


@dataclass(frozen=True, slots=True)
class Legal:
    """The trie's children of the beams at hand."""

    trie: TensorTrie
    depth: int
    nodes: Tensor
    """Of the beams (R, B)."""


def all_extensions(logits: Tensor, score: Tensor, width: int, legal: Legal | None = None) -> Extensions:
    """The ``width`` best of all extensions of beams with scores (R, B) by codes of logits (R, B, V)."""
    log_probs = logits.log_softmax(-1)
    if legal is None:
        codes, nodes = torch.arange(logits.shape[-1], device=logits.device).expand_as(logits), None
    else:
        codes, nodes, exists = legal.trie.children(legal.depth, legal.nodes)
        log_probs = log_probs.gather(-1, codes).masked_fill(~exists, float("-inf"))
    total = (score.unsqueeze(-1) + log_probs).flatten(1)
    best, flat = total.topk(min(width, total.shape[1]))
    node = None if nodes is None else nodes.flatten(1).gather(1, flat)
    code, log_prob = (x.flatten(1).gather(1, flat) for x in (codes, log_probs))
    return Extensions(best, flat // log_probs.shape[-1], code, log_prob, node)


class Best:
    """The ``width`` best extensions of one user's beams, to which rows of beams are offered from the best on.

    A code adds a log-probability of at most 0. So as soon as ``width`` extensions are known, the worst of them bounds what
    can still enter: no beam that scores lower, and of the others' extensions only what beats it. All this is exact.
    """

    def __init__(self, width: int, codes: int, *, constrained: bool = False) -> None:
        self.width = width
        self.block_rows = max(1, (LEGAL_BLOCK if constrained else BLOCK) // codes)
        self.bound = float("-inf")
        """Below it nothing enters."""
        self.rows = 0
        """Beams that were scored."""
        self._found: list[Extensions] = []

    def offer(self, head: Head, hidden: Tensor, score: Tensor, first: int, legal: Legal | None = None) -> None:
        """Beams ``first``, first + 1, …: decoder output (n, D) and scores (n,), best first; ``legal`` has nodes (n,)."""
        for start in range(0, len(hidden), self.block_rows):
            part = slice(start, min(start + self.block_rows, int((score > self.bound).sum())))
            if part.stop <= start:
                return
            inside = None if legal is None else Legal(legal.trie, legal.depth, legal.nodes[part])
            self._block(head(hidden[part]).float(), score[part], first + start, inside)

    def result(self) -> Extensions:
        """What was found (W,), best first; fewer than ``width`` where there are no more.

        Raises:
            ArithmeticError: nothing was, since the scores are no numbers.
        """
        if not self._found or not len(self._found[0].score):
            raise ArithmeticError(NO_NUMBERS)
        return self._found[0]

    def _block(self, logits: Tensor, score: Tensor, first: int, legal: Legal | None) -> None:
        self.rows += len(logits)
        log_probs = torch.log_softmax(logits, -1, out=logits)  # in place: half the memory to read and write
        codes = nodes = None
        if legal is not None:
            codes, nodes, exists = legal.trie.children(legal.depth, legal.nodes)
            log_probs = torch.where(exists, log_probs.gather(-1, codes), float("-inf"))
        row, column = self._candidates(log_probs, score)
        log_prob = log_probs[row, column]
        found = Extensions(
            score=score[row] + log_prob,
            parent=row + first,
            code=column if codes is None else codes[row, column],
            log_prob=log_prob,
            node=None if nodes is None else nodes[row, column],
        )
        self._found.append(found)
        self._cut()

    def _candidates(self, log_probs: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of all that may enter.

        Before there is a bound, the largest of every segment are extensions, too, of which the best few bound what enters.
        """
        peaks, bound = segment_peaks(log_probs), self.bound
        if bound == float("-inf") and peaks.numel() >= self.width:
            bound = float((score.unsqueeze(-1) + peaks).flatten().topk(self.width).values[-1])
        return above(log_probs, peaks, bound - ROUNDING - score)

    def _cut(self) -> None:
        """Keep the best, and raise the bound if there are enough of them."""
        parts = self._found
        score = torch.cat([part.score for part in parts])
        best, order = score.topk(min(self.width, len(score)))
        nodes = [part.node for part in parts if part.node is not None]
        self._found = [
            Extensions(
                score=best,
                parent=torch.cat([part.parent for part in parts])[order],
                code=torch.cat([part.code for part in parts])[order],
                log_prob=torch.cat([part.log_prob for part in parts])[order],
                node=torch.cat(nodes)[order] if nodes else None,
            )
        ]
        if len(best) == self.width:
            self.bound = float(best[-1])


def segment_peaks(values: Tensor) -> Tensor:
    """The largest of every few neighbours among values (n, C): (n, S), where S divides C."""
    segments: Tensor = values.unflatten(-1, (-1, gcd(values.shape[-1], SEGMENT)))
    return segments.amax(-1)


def above(values: Tensor, peaks: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the values (n, C) that are above their row's limit (n,), found by the `segment_peaks`: reading
    these is many times faster than comparing every value, and few segments have one."""
    segments = values.unflatten(-1, (peaks.shape[-1], -1))
    row, segment = (peaks > limits.unsqueeze(-1)).nonzero(as_tuple=True)
    inside, column = (segments[row, segment] > limits[row].unsqueeze(-1)).nonzero(as_tuple=True)
    return row[inside], segment[inside] * segments.shape[-1] + column
