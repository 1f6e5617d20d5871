"""How what the loop depends on is checked: a function says what it found, or raises what is wrong and how to mend it.

Each runs in a thread of its own and gets a bounded time, so that a server that accepts connections and says nothing,
or a disk that hangs, is a finding like any other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

PATIENCE_S = 20.0
State = Literal["ok", "warning", "error", "skipped"]


class Check(NamedTuple):
    """A check by its name; ``remedy`` is for what it does not explain itself."""

    name: str
    look: Callable[[], str]
    remedy: str = ""


class Trouble(Exception):  # noqa: N818 - it is a finding, not an error of the program
    """Something is wrong: what was found, and how to mend it. With ``state`` warning the loop works all the same."""

    def __init__(self, found: str, remedy: str, state: State = "error") -> None:
        super().__init__(found)
        self.found, self.remedy, self.state = found, remedy, state


class Skip(Exception):  # noqa: N818 - it is a finding, not an error of the program
    """There is nothing to check; says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    state: State
    found: str
    remedy: str = ""


def find(check: Check, patience_s: float = PATIENCE_S) -> Finding:
    """The outcome of a check, within ``patience_s``."""
    outcome: list[Finding] = []
    thread = threading.Thread(target=lambda: outcome.append(_outcome(check)), name=f"check {check.name}", daemon=True)
    thread.start()
    thread.join(patience_s)
    late = f"no answer within {patience_s:g} s"
    return (
        outcome[0] if outcome else Finding(check.name, "error", late, "see whether the disk or the server behind it hangs")
    )


def _outcome(check: Check) -> Finding:
    try:
        return Finding(check.name, "ok", check.look())
    except Trouble as trouble:
        return Finding(check.name, trouble.state, trouble.found, trouble.remedy)
    except Skip as why:
        return Finding(check.name, "skipped", str(why))
    except Exception as error:  # whatever a check did not foresee is a finding, too
        return Finding(check.name, "error", " ".join(str(error).split()) or type(error).__name__, check.remedy)
