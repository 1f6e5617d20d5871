"""OneRec's first version: V1's encoder, and a decoder that generates the items of a session together (OneRec, section 3).

An item is [BOS, s1, …, sK], a session is its items one after another, and every position sees all positions before it.
Shape legend: R contexts, T items, M sessions per context, m items per session, K levels, V codes, B beams, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.policy.encoder_decoder import EncoderDecoder
from common.policy.moe import present_tokens
from common.policy.policy import Cache, Memory, positions
from common.settings import PolicySettings


class SessionDecoder(EncoderDecoder):
    """The session-wise policy. The first item of a session is what the point-wise policy would generate, so that
    `log_probs` and the first K calls of `step` are inherited: candidates are first items."""

    def __init__(self, policy: PolicySettings) -> None:
        super().__init__(policy)
        self.closing = nn.Parameter(torch.randn(1, policy.d_model) * 0.02)  # the position of an item's last code
        self.later = nn.Parameter(torch.randn(policy.session_items - 1, policy.d_model) * 0.02)  # items after the first

    def session_logits(self, memory: Memory, codes: Tensor, present: Tensor | None = None) -> Tensor:
        """fp32 logits of each code of each item, given all before it: items (R, T, K) in their order -> (R, T, K, V).

        More than `session_items` items are cut into sessions of that many. ``present`` (R, T) as in `logits`.
        """
        targets = codes.shape[1]
        items = min(self.settings.session_items, targets)
        sessions = functional.pad(codes, (0, 0, 0, -targets % items)).unflatten(1, (-1, items))
        if present is not None:
            present = functional.pad(present, (0, -targets % items)).unflatten(1, (-1, items))
        return self.whole_session_logits(memory, sessions, present).flatten(1, 2)[:, :targets]

    def whole_session_logits(self, memory: Memory, codes: Tensor, present: Tensor | None = None) -> Tensor:
        """Teacher-forced fp32 logits (R, M, m, K, V) of sessions (R, M, m, K).

        BOS of an item predicts s1 and s1 predicts s2; sK predicts nothing, as BOS is forced after it, and the last sK
        is not read.
        """
        _, sessions, items, levels = codes.shape
        inputs = [memory.begin.unsqueeze(2).expand(-1, sessions, items, -1)]
        inputs += [self.embed(k, codes[..., k]) for k in range(levels)]
        hidden = (torch.stack(inputs, 3) + self._places(items)).flatten(2, 3)[:, :, :-1]
        hidden = self.dropout(hidden)
        if present is not None:
            present = present.repeat_interleave(levels + 1, -1)[..., :-1]
        with present_tokens(present):
            for block, keys_values in zip(self.blocks, memory.keys_values, strict=True):
                hidden = block(hidden, keys_values, memory.mask)
        return torch.stack([self.head(k, hidden[:, :, k :: levels + 1]) for k in range(levels)], 3).float()

    def step(self, memory: Memory, previous: Tensor | None, cache: Cache) -> tuple[Tensor, Cache]:
        """One level of the session for all beams; after an item's last code BOS is fed unasked.

        Raises:
            ValueError: the session is complete.
        """
        levels = self.settings.levels
        item, level = divmod(positions(cache), levels + 1)
        if previous is None:
            return super().step(memory, previous, cache)
        places = self._places(self.settings.session_items)
        token = self.embed(level - 1, previous)
        if level == levels:
            if item + 1 == len(places):
                raise ValueError(f"a session has at most policy.session_items = {len(places)} items")
            _, cache = self.advance(memory, token + places[item, level], cache)
            item, level, token = item + 1, 0, memory.begin.expand_as(token)
        return self.advance(memory, token + places[item, level], cache)

    def _places(self, items: int) -> Tensor:
        """Position embeddings (items, K + 1, D): the level's, and from the second item on the item's."""
        item = functional.pad(self.later[: items - 1], (0, 0, 1, 0))
        return item.unsqueeze(1) + torch.cat((self.level, self.closing))
