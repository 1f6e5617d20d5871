from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from deploy.reference.schema import tables


class Part(BaseModel):
    """What lies inside."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.5


class Whole(BaseModel):
    """A model of
    every kind of field."""

    count: Annotated[int, Field(ge=1, lt=2**63)]
    kind: Literal["a", "b"] | None = None
    names: Annotated[list[Annotated[str, Field(min_length=1, max_length=9)]], Field(max_length=3)] = []
    weights: dict[str, Annotated[float, Field(ge=0)]] = {"x": 1.0}
    on: bool = True
    part: Part = Part()
    parts: Annotated[list[Part], Field(min_length=1)] = [Part()]
    step: Annotated[int, Field(multiple_of=8)] = 8


def test_tables_of_a_model_and_its_parts() -> None:
    whole, part, parts = tables(Whole)
    assert (whole.place, whole.name, whole.purpose) == ("", "Whole", "A model of every kind of field.")
    assert [(row[0].strip("`"), row[1], row[2]) for row in whole.rows] == [
        ("count", "required", "integer, ≥ 1, < 2^63"),
        ("kind", "`null`", '`"a"`, `"b"`, or `null`'),
        ("names", "`[]`", "list of string, 1 to 9 characters, ≤ 3 entries"),
        ("weights", '`{"x": 1.0}`', "table of number, ≥ 0"),
        ("on", "`true`", "`true`, `false`"),
        ("part", "–", "Part"),
        ("parts", "–", "list of Part, ≥ 1 entries"),
        ("step", "`8`", "integer, a multiple of 8"),
    ]
    assert whole.rows[5][3] == "What lies inside."
    assert (part.place, parts.place) == ("part", "parts[]")
    assert part.rows == parts.rows == [("`share`", "`0.5`", "number, > 0, ≤ 1", "")]


@pytest.mark.parametrize("field", ["count", "kind"])
def test_a_field_can_be_left_out(field: str) -> None:
    whole = next(tables(Whole))
    assert [row for row in whole.rows if row not in whole.without(field).rows] == [
        row for row in whole.rows if f"`{field}`" == row[0]
    ]


def test_bars_inside_a_cell_do_not_end_it() -> None:
    class Barred(BaseModel):
        """x | y"""

        name: Annotated[str, Field(pattern="a|b")] = "a"

    [table] = tables(Barred)
    assert table.markdown("field").splitlines()[-1] == '| `name` | `"a"` | string, like `a\\|b` |  |'
