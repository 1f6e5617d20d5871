"""Valid messages made invalid, now and then still valid: what broken or hostile producers send."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

ODD: list[Any] = [None, True, -1, 0, 2**63, -(2**63), 1e308, float("nan"), "", "\x00", "9" * 400, [], {}, [[]], {"": None}]


def mutated(value: bytes, rng: random.Random) -> bytes:
    """A message with one to three changes: of bytes, or of the JSON that they hold."""
    for _ in range(rng.randint(1, 3)):
        value = rng.choice(MUTATIONS)(value, rng)
    return value


def _flip(value: bytes, rng: random.Random) -> bytes:
    if not value:
        return value
    at = rng.randrange(len(value))
    return value[:at] + bytes([value[at] ^ 1 << rng.randrange(8)]) + value[at + 1 :]


def _cut(value: bytes, rng: random.Random) -> bytes:
    return value[: rng.randrange(len(value) + 1)]


def _repeat(value: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(value) + 1) for _ in range(2))
    return value[:last] + value[first:]


def _nest(value: bytes, rng: random.Random) -> bytes:
    """Deeper than a parser recurses, now and then."""
    depth = rng.choice([1, 10, 100_000])
    return b"[" * depth + value + b"]" * depth


def _change_json(value: bytes, rng: random.Random) -> bytes:
    """Another value somewhere, a key that is gone, or one too many."""
    try:
        root = json.loads(value)
    except (ValueError, RecursionError):
        return value
    parent, key = _somewhere(root, rng)
    if parent is None:
        return json.dumps(rng.choice(ODD)).encode()
    match rng.randrange(3):
        case 0:
            parent[key] = rng.choice(ODD)
        case 1:
            del parent[key]
        case _ if isinstance(parent, dict):
            parent[rng.choice(["", "extra", "schema_version"])] = rng.choice(ODD)
        case _:
            parent.insert(rng.randrange(len(parent) + 1), rng.choice(ODD))
    return json.dumps(root).encode()


def _somewhere(root: Any, rng: random.Random) -> tuple[Any, Any]:
    """A container of a JSON tree and one of its keys; (None, None) where the tree is a single value."""
    parent, key, node = None, None, root
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        parent, key = node, rng.choice(keys)
        node = node[key]
        if rng.random() < 0.3:
            break
    return parent, key


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _cut, _repeat, _nest, *3 * (_change_json,))
