"""The best extensions of beams by one code: by scoring all of them, or exactly the same ones by scoring few.

Shape legend: R users, B beams, D width, V codes per level, W requested width, n rows (beams of any users, one user's after
the other's), C columns of them (all codes, or the children in a trie).
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
    """The ``width`` best extensions of each user's beams, to which beams are offered from every user's best on.

    A code adds a log-probability of at most 0. So as soon as a user has ``width`` extensions, the worst of them bounds what
    can still enter: no beam that scores lower, and of the others' extensions only what beats it. All this is exact.
    """

    def __init__(
        self, users: int, width: int, codes: int, *, constrained: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        self.width = width
        self.block_rows = max(1, (LEGAL_BLOCK if constrained else BLOCK) // codes)
        self.bound = torch.full((users,), -torch.inf, device=device)
        """Below it (R,) nothing of a user's enters."""
        self.rows = 0
        """Beams that were scored."""
        none, nobody = torch.empty(users, 0, device=device), torch.empty(users, 0, dtype=torch.int64, device=device)
        self._found = Extensions(none, nobody, nobody, none, nobody if constrained else None)

    def offer(self, head: Head, hidden: Tensor, score: Tensor, first: int, legal: Legal | None = None) -> None:
        """Beams ``first``, first + 1, … of all users: decoder output (R, n, D) and scores (R, n), best first.

        Raises:
            ArithmeticError: logits are no numbers.
        """
        block = max(1, self.block_rows // len(score))
        for start in range(0, score.shape[1], block):
            user, beam = (score[:, start : start + block] > self.bound.unsqueeze(1)).nonzero(as_tuple=True)
            if not len(user):
                return
            beam += start
            inside = None if legal is None else Legal(legal.trie, legal.depth, legal.nodes[user, beam])
            self._block(head(hidden[user, beam]).float(), score[user, beam], user, beam + first, inside)

    def result(self) -> Extensions:
        """What was found (R, W), best first; where a user has fewer the score is -inf."""
        return self._found

    def _block(self, logits: Tensor, score: Tensor, user: Tensor, parent: Tensor, legal: Legal | None) -> None:
        """Score rows (n, V)."""
        self.rows += len(logits)
        log_probs = torch.log_softmax(logits, -1, out=logits)  # in place: half the memory to read and write
        codes = nodes = None
        if legal is not None:
            codes, nodes, exists = legal.trie.children(legal.depth, legal.nodes)
            log_probs = torch.where(exists, log_probs.gather(-1, codes), -torch.inf)
        row, column = self._candidates(log_probs, score, user)
        log_prob = log_probs[row, column]
        found = Extensions(
            score=score[row] + log_prob,
            parent=parent[row],
            code=column if codes is None else codes[row, column],
            log_prob=log_prob,
            node=None if nodes is None else nodes[row, column],
        )
        self._keep(found, user[row])

    def _candidates(self, log_probs: Tensor, score: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of all that may enter.

        Before there is a bound, the largest of every segment are extensions, too, of which the best few bound what enters.
        """
        peaks, bound = segment_peaks(log_probs), self.bound
        if bool(peaks.isnan().any()):
            raise ArithmeticError(NO_NUMBERS)
        if bool(bound.isneginf().any()):
            known = _by_user(user, len(bound))(score.unsqueeze(-1) + peaks, -torch.inf).flatten(1)
            if known.shape[1] >= self.width:
                bound = bound.maximum(known.topk(self.width).values[:, -1])
        return above(log_probs, peaks, bound[user] - ROUNDING - score)

    def _keep(self, new: Extensions, user: Tensor) -> None:
        """Keep the best, and raise the bounds of users that have enough of them."""
        by_user = _by_user(user, len(self.bound))

        def joined(name: str, fill: float) -> Tensor:
            return torch.cat((getattr(self._found, name), by_user(getattr(new, name), fill)), 1)

        score = joined("score", -torch.inf)
        best, order = score.topk(min(self.width, score.shape[1]))
        self._found = Extensions(
            score=best,
            parent=joined("parent", 0).gather(1, order),
            code=joined("code", 0).gather(1, order),
            log_prob=joined("log_prob", -torch.inf).gather(1, order),
            node=None if new.node is None else joined("node", 0).gather(1, order),
        )
        if best.shape[1] == self.width:
            self.bound = best[:, -1]


def _by_user(user: Tensor, users: int) -> Callable[[Tensor, float], Tensor]:
    """Puts rows (n, …), one user's after the other's, side by side: (R, largest number of one user's, …), filled up."""
    if users == 1:
        return lambda rows, _: rows.unsqueeze(0)
    count = user.bincount(minlength=users)
    size, place = int(count.max()), torch.arange(len(user), device=user.device) - (count.cumsum(0) - count)[user]

    def put(rows: Tensor, fill: float) -> Tensor:
        out = rows.new_full((users, size, *rows.shape[1:]), fill)
        out[user, place] = rows
        return out

    return put


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
