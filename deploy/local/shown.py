"""How figures are shown to a person: one that could not be had is a dash, never a zero."""

from __future__ import annotations

UNKNOWN = "—"


def number(value: float | None, form: str = ",") -> str:
    """A number in Python's format."""
    return UNKNOWN if value is None else format(value, form)


def share(value: float | None) -> str:
    """A share in percent."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def span(seconds: float | None) -> str:
    """A time: ``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds is None:
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
