"""The optimizer of the id tables: Adagrad with one accumulator per row, which touches only the rows that were read.

A table of a million rows is read at some ten thousand of them in a step. A dense optimizer would visit all the others, too:
to decay their moments, and to move them by what is left of old gradients.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

ROW_SUM = "row_sum"
EPS = 1e-8


class RowWiseAdagrad(torch.optim.Optimizer):
    """Row-wise Adagrad over tables (rows, width) with sparse gradients (Mudigere et al., "Software-Hardware Co-design for
    Fast and Scalable Training of Deep Learning Recommendation Models", 2022).

    A row r with gradient g_r: s_r += mean(g_r^2), w_r -= rate * g_r / (sqrt(s_r) + eps). Other rows, and their sums s, stay
    as they are. A row's first update has root mean square ``rate``, its n-th about ``rate`` / sqrt(n).
    """

    def __init__(self, tables: Iterable[Tensor], rate: float) -> None:
        super().__init__(tables, {"lr": rate})
        for table in self.tables():
            self.state[table][ROW_SUM] = table.new_zeros(len(table))

    def tables(self) -> list[Tensor]:
        """All tables."""
        return [table for group in self.param_groups for table in group["params"]]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002  # no loss is evaluated again
        """Update the rows that have a gradient. It must be sparse; its rows may repeat."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    _update(table, table.grad.coalesce(), self.state[table][ROW_SUM], group["lr"])


def row_tables(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights by name that get sparse gradients: those of the embeddings made so."""
    embeddings = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Embedding) and part.sparse]
    return {f"{name}.weight": part.get_parameter("weight") for name, part in embeddings}


def _update(table: Tensor, gradient: Tensor, sums: Tensor, rate: float) -> None:
    rows, values = gradient.indices()[0], gradient.values()
    grown = sums[rows] + values.square().mean(1)
    sums[rows] = grown
    table[rows] -= rate * values / (grown.sqrt() + EPS).unsqueeze(1)
