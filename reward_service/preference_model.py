"""The preference model: a search-based interest model with one tower per objective and the P-Score head.

OneRec technical report, section on the reward system: p = sigmoid(MLP([user; item; t^x for all x])) is fitted to every
objective's label at once, L_P = sum_x w^x BCE(y^x, p), so that its optimum for a fixed user and item is
sum_x w^x E[y^x] / sum_x w^x. The interest part follows SIM (hard search, then target attention with time gaps); the
stop-gradient on the towers' hiddens and the head's own embeddings follow Pantheon.

Shape legend: R requests, N targets, E events, k events per target, w width, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.features import BUCKETS, LABEL_BITS
from reward_service.inputs import Inputs, ItemColumns, Shape
from reward_service.labels import INTERACTION, OBJECTIVES, TOWERS

HEADS = 4
TABS = 256
SHARED = ("wtr", "cmtr", INTERACTION)
"""Objectives too rare to train hidden layers of their own: they share the pooled tower's."""
HIDDENS = (*(x for x in OBJECTIVES if x not in SHARED), INTERACTION)


@dataclass(frozen=True, slots=True)
class Outputs:
    """Logits: ``towers`` (N, len(TOWERS)) and ``p`` (N,)."""

    towers: Tensor
    p: Tensor


class ItemEmbedding(nn.Module):
    """An item's id, author, mean tag, duration and level-1 code as rows of one width."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.vid = _table(shape.item_buckets, shape.width)
        self.author = _table(shape.author_buckets, shape.width)
        self.tag = _table(shape.tag_buckets, shape.width)
        self.duration = _table(BUCKETS, shape.width)
        self.sid = _table(shape.codes + 1, shape.width)

    def forward(self, item: ItemColumns) -> Tensor:
        """(…, 5, w)."""
        tag = (self.tag(item.tags) * item.tag_weight[..., None]).sum(-2)
        parts = [self.vid(item.vid), self.author(item.author), tag, self.duration(item.duration), self.sid(item.sid)]
        return torch.stack(parts, dim=-2)


class TargetAttention(nn.Module):
    """The target item attends to the events that the search found for it; with none, the interest is zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = HEADS * max(1, width // HEADS)
        self.query = nn.Linear(5 * width, self.inner)
        self.key = nn.Linear(width, self.inner)
        self.value = nn.Linear(width, self.inner)
        self.related = nn.Parameter(torch.zeros(HEADS))

    def forward(self, item: Tensor, events: Tensor, found: Tensor, related: Tensor) -> Tensor:
        """Interest (N, inner) of targets ``item`` (N, 5w) in ``events`` (E, w) at positions ``found`` (N, k), -1: none."""
        memory = torch.cat([self.key(events), self.value(events)], dim=1)
        # whole rows by index_select, which copies them as such; plain indexing goes number by number
        read = memory.index_select(0, found.clamp(min=0).flatten()).view(*found.shape, 2 * self.inner)
        keys, values = read.split(self.inner, dim=2)  # (N, k, inner)
        logits = self._by_head(item) @ keys.transpose(1, 2) + related[:, None, :] * self.related[:, None]
        logits = logits.masked_fill(found[:, None, :] < 0, -torch.inf)
        # one more slot of logit 0 and value 0: attending to nothing is possible, and an empty history is defined
        shares = F.pad(logits, (0, 1)).softmax(-1)[..., :-1]  # (N, H, k)
        interest = (shares @ values).unflatten(2, (HEADS, -1))  # (N, H, H, d): every head's shares of every head's values
        own: Tensor = interest.diagonal(dim1=1, dim2=2)  # (N, d, H)
        return own.transpose(1, 2).flatten(1)

    def _by_head(self, item: Tensor) -> Tensor:
        """Queries (N, H, inner), head h's zero outside its own d columns.

        With them one product serves all heads on keys as they lie in memory. Four times the operations, but few; to bring
        each head's keys together would copy them all, which took longer than the rest of the attention.
        """
        query = self.query(item).unflatten(1, (HEADS, -1)) / math.sqrt(self.inner // HEADS)  # (N, H, d)
        return torch.diag_embed(query.transpose(1, 2), dim1=1, dim2=2).flatten(2)


class PreferenceModel(nn.Module):
    """Towers p^x and the P-Score p for N targets."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.item = ItemEmbedding(shape)
        self.play, self.age, self.hour = _table(BUCKETS, width), _table(BUCKETS, width), _table(25, width)
        self.label = nn.Linear(LABEL_BITS, width)
        self.norm = nn.LayerNorm(width)
        self.attention = TargetAttention(width)
        self.user = _table(shape.user_buckets, width)
        self.static = _table(shape.static_buckets, width)
        self.tab = _table(TABS + 1, width)
        self.trunk = _mlp(9 * width + self.attention.inner, 4 * width, 2 * width)
        self.hidden = nn.ModuleDict({x: _mlp(2 * width, 2 * width, width) for x in HIDDENS})
        self.out = nn.ModuleDict({x: nn.Linear(width, 1) for x in TOWERS})
        self.head = PScoreHead(shape)

    def forward(self, inputs: Inputs) -> Outputs:
        """Logits of a batch."""
        item = self.item(inputs.item).flatten(1)
        interest = self.attention(item, self._events(inputs), inputs.found, inputs.related)
        user = torch.cat([self.user(inputs.user), self.static(inputs.static).sum(1), self.hour(inputs.hour + 1)], dim=1)
        trunk = self.trunk(torch.cat([item, interest, user[inputs.request], self.tab(inputs.tab + 1)], dim=1))
        hidden = {x: mlp(trunk) for x, mlp in self.hidden.items()}
        towers = [self.out[x](hidden[INTERACTION if x in SHARED else x]) for x in TOWERS]
        p = self.head(inputs.user[inputs.request], inputs.item.vid, torch.cat(list(hidden.values()), dim=1))
        return Outputs(torch.cat(towers, dim=1), p)

    def _events(self, inputs: Inputs) -> Tensor:
        """(E, w); encoded once, however many targets look at an event."""
        bits = (inputs.labels[:, None] >> torch.arange(LABEL_BITS)) & 1
        behaviour = self.play(inputs.play) + self.age(inputs.age) + self.label(bits.float())
        events: Tensor = self.norm(self.item(inputs.event_item).sum(-2) + behaviour)
        return events

    @torch.no_grad()
    def start_at(self, rates: dict[str, float], p_score: float) -> None:
        """Set the output biases so that an untrained model predicts these base rates (calibration from step one)."""
        for objective, rate in rates.items():
            self.out[objective].get_parameter("bias").fill_(_logit(rate))
        self.head.out.bias.fill_(_logit(p_score))


class PScoreHead(nn.Module):
    """p from the user, the item and the towers' hiddens. Its gradient reaches its own parameters only."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.user = _table(shape.user_buckets, width)
        self.item = _table(shape.item_buckets, width)
        self.mlp = _mlp((len(HIDDENS) + 2) * width, 2 * width, width)
        self.out = nn.Linear(width, 1)

    def forward(self, user: Tensor, vid: Tensor, hiddens: Tensor) -> Tensor:
        """Logit of p (N,) for table rows ``user``, ``vid`` (N,) and ``hiddens`` (N, len(HIDDENS) * w)."""
        together = torch.cat([self.user(user), self.item(vid), hiddens.detach()], dim=1)
        logit: Tensor = self.out(self.mlp(together)).squeeze(1)
        return logit


def p_score_loss(p: Tensor, values: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """L_P = sum_x w^x BCE(y^x, p), mean over N: one logit ``p`` (N,) against all of ``values`` (N, |S_o|)."""
    loss = F.binary_cross_entropy_with_logits(p[:, None].expand_as(values), values, reduction="none")
    return (loss * known * weights).sum(1).mean()


def preference_loss(outputs: Outputs, values: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """L_P + sum_x BCE(y^x, p^x); columns as `TOWERS`, of which L_P sees `OBJECTIVES`; unknown labels add nothing."""
    towers = F.binary_cross_entropy_with_logits(outputs.towers, values, reduction="none")
    judged = len(OBJECTIVES)
    p_score = p_score_loss(outputs.p, values[:, :judged], known[:, :judged], weights)
    return p_score + (towers * known).sum(1).mean()


def _table(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width, padding_idx=0)
    with torch.no_grad():
        table.weight.normal_(std=0.05)
        table.weight[0] = 0.0
    return table


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, outside in pairwise(widths):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers)


def _logit(rate: float) -> float:
    rate = min(max(rate, 1e-4), 1 - 1e-4)
    return math.log(rate / (1 - rate))
