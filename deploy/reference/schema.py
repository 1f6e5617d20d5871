"""A pydantic model's JSON schema, as the rows of a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]
LONG = 60
"""Defaults of more characters are not shown."""


@dataclass(frozen=True, slots=True)
class Table:
    """A model's fields: where it is, its name, what it is for, and a row a field (name, default, accepted, meaning)."""

    place: str
    name: str
    purpose: str
    rows: list[tuple[str, str, str, str]]

    def without(self, field: str) -> Table:
        """The same table without a field."""
        return replace(self, rows=[row for row in self.rows if row[0] != f"`{field}`"])

    def markdown(self, first_column: str) -> str:
        """The table under its purpose."""
        head = [(first_column, "default", "accepted", "meaning"), ("---", "---", "---", "---")]
        lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in [*head, *self.rows]]
        return "\n".join([self.purpose, "", *lines])


def tables(model: type[BaseModel]) -> Iterator[Table]:
    """A model's own fields, then those of the models that it is made of, by their place (``rl``, ``recommend.arms[]``)."""
    schema = model.model_json_schema(mode="validation")
    yield from _walk(schema, "", schema.get("$defs", {}))


def _walk(schema: Schema, place: str, definitions: dict[str, Schema]) -> Iterator[Table]:
    required = set(schema.get("required", []))
    rows, inner = [], []
    for field, body in schema.get("properties", {}).items():
        model, at = _model_of(body, definitions), f"{place}.{field}".lstrip(".")
        if model is not None:
            inner.append((at + ("[]" if body.get("type") == "array" else ""), model))
        default = "required" if field in required else _default(body) if model is None else "–"
        meaning = _one_line(body.get("description", "" if model is None else model.get("description", "")))
        rows.append((f"`{field}`", default, _accepted(body, definitions), meaning))
    yield Table(place, schema["title"], _one_line(schema.get("description", "")), rows)
    for at, model in inner:
        yield from _walk(model, at, definitions)


def _model_of(body: Schema, definitions: dict[str, Schema]) -> Schema | None:
    """The model that a field is, or is a list of."""
    reference = body.get("$ref") or body.get("items", {}).get("$ref")
    model = definitions[reference.rpartition("/")[2]] if reference else None
    return model if model and "properties" in model else None


def _default(body: Schema) -> str:
    told = json.dumps(body["default"]) if "default" in body else ""
    return f"`{told}`" if told and len(told) <= LONG else "–"


def _accepted(body: Schema, definitions: dict[str, Schema]) -> str:
    """What values a field takes, in a few words."""
    if "anyOf" in body:
        return ", or ".join(_accepted(choice, definitions) for choice in body["anyOf"])
    if "$ref" in body:
        name = body["$ref"].rpartition("/")[2]
        return name if "properties" in definitions[name] else _accepted(definitions[name], definitions)
    if "enum" in body or "const" in body:
        return ", ".join(f"`{json.dumps(value)}`" for value in body.get("enum", [body.get("const")]))
    kind = body.get("type", "any")
    if kind == "array":
        inside = _accepted(body.get("items", {}), definitions)
        return f"list of {inside}" + _bounds(body, "minItems", "maxItems", " entries")
    if kind == "object":
        values = body.get("additionalProperties")
        return "table of " + (_accepted(values, definitions) if isinstance(values, dict) else "values")
    return {"boolean": "`true`, `false`", "null": "`null`"}.get(kind) or kind + _range(body)


def _range(body: Schema) -> str:
    """A number's or a text's bounds."""
    above = f", > {_number(body['exclusiveMinimum'])}" if "exclusiveMinimum" in body else ""
    below = f", < {_number(body['exclusiveMaximum'])}" if "exclusiveMaximum" in body else ""
    step = f", a multiple of {body['multipleOf']}" if "multipleOf" in body else ""
    form = f", like `{body['pattern']}`" if "pattern" in body else ""
    inclusive = _bounds(body, "minimum", "maximum", "")
    return above + inclusive + below + step + form + _bounds(body, "minLength", "maxLength", " characters")


def _bounds(body: Schema, lowest: str, highest: str, unit: str) -> str:
    low, high = body.get(lowest), body.get(highest)
    if low is not None and high is not None:
        return f", {_number(low)} to {_number(high)}{unit}"
    if low is not None:
        return f", ≥ {_number(low)}{unit}"
    return f", ≤ {_number(high)}{unit}" if high is not None else ""


def _number(value: float) -> str:
    """A bound; large powers of two as such."""
    if not float(value).is_integer():
        return str(value)
    whole = int(value)
    large_power = whole > 1 << 20 and whole & (whole - 1) == 0
    return f"2^{whole.bit_length() - 1}" if large_power else str(whole)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")
