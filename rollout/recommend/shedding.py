"""Which requests are generated for, and which get a list that is there already: so that nobody waits beyond a bound."""

from __future__ import annotations

SMOOTHING = 0.2
"""Weight of the last batch in what is expected of the next."""


class Shedder:
    """Admits a request if, at the pace of late, it and all that were admitted before are done within ``budget_s``.

    Little's law: w waiting requests at s seconds each take w * s. Not thread-safe: to be asked where requests arrive.
    """

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self.seconds_per_user = 0.0
        """At first nothing is known and all are admitted."""

    def admits(self, waiting: int) -> bool:
        """Whether one more is admitted with ``waiting`` admitted ones not yet answered."""
        return (waiting + 1) * self.seconds_per_user <= self.budget_s or not waiting

    def observe(self, users: int, seconds: float) -> None:
        """What a batch took."""
        pace = seconds / users
        known = self.seconds_per_user
        self.seconds_per_user = pace if not known else (1 - SMOOTHING) * known + SMOOTHING * pace
