from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deploy.dashboard.parts import Part
from deploy.dashboard.screen import BARS, SPARKS, rate, screen, spark
from deploy.dashboard.state import LoopState
from deploy.dashboard.top import line
from deploy.dashboard.watch import Watch
from deploy.local.run_folder import RunFolder
from deploy.local.shown import span


@pytest.fixture(scope="module")
def state(recorded: RunFolder) -> LoopState:
    with Watch(recorded) as watch:
        return watch.look()


def shown(state: LoopState, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), record=True)
    console.print(screen(state, courses=True))
    return console.export_text().splitlines()


def test_everything_fits_a_small_terminal_also_when_much_is_wrong(state: LoopState) -> None:
    parts = [Part(name=part.name, state="down", pid=2**22, restarts=7) for part in state.parts]
    dropped = {f"reason number {k}": k for k in range(1, 9)}
    figures = state.figures.model_copy(update={"dropped": dropped, "actors": {f"rollout-{k}": 10**6 for k in range(40)}})
    reason = "a very long reason " * 20
    worst = state.model_copy(update={"parts": parts, "figures": figures, "stage": "failed", "reason": reason})
    for lines in (shown(state), shown(worst)):
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 80


def test_the_screen_has_the_figures_of_the_state(state: LoopState) -> None:
    text = "\n".join(shown(state))
    for told in ("has finished", "all is well", "loss 4.500", "8 trained, 1 dropped", "25.0 %", "step 9", "dead letters 1"):
        assert told in text, told
    assert text.count(BARS[0]) >= 1


def test_unknown_figures_are_dashes(state: LoopState) -> None:
    empty = state.model_copy(update={"figures": state.figures.model_validate({"rates": dict.fromkeys(state.figures.rates)})})
    lines = shown(empty.model_copy(update={"checkpoint": None}))
    assert {
        name: f"{name:<13}—" in "\n".join(lines) for name in ("step", "reward", "legality", "checkpoint", "groups")
    } == dict.fromkeys(("step", "reward", "legality", "checkpoint", "groups"), True)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=200))
def test_a_spark_spans_the_bars(values: list[float]) -> None:
    drawn = spark([(float(k), value) for k, value in enumerate(values)])
    assert len(drawn) == min(SPARKS, len(values))
    assert set(drawn) <= set(BARS)
    assert BARS[0] in drawn


def test_a_spark_needs_two_points() -> None:
    assert spark([(0.0, 1.0)]) == ""
    assert spark([(float(k), float(k)) for k in range(8)]) == BARS


def test_rates_have_the_digits_that_tell_something() -> None:
    assert [rate(value) for value in (None, 0.0, 0.123, 4.56, 78.9, 1234.5)] == [
        "—/s",
        "0/s",
        "0.12/s",
        "4.6/s",
        "79/s",
        "1,234/s",
    ]


def test_spans_are_told_in_their_own_unit() -> None:
    assert [span(value) for value in (None, 42.2, 185, 7620)] == ["—", "42 s", "3 min 05 s", "2 h 07 min"]


def test_a_line_says_what_is_wrong(state: LoopState) -> None:
    assert "WRONG" not in line(state)
    assert line(state).startswith("has finished · step 9")
    killed = state.model_copy(update={"stage": "killed", "phase": "streaming"})
    assert line(killed).endswith("WRONG: the run was killed while streaming")
