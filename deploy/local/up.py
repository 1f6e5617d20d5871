"""``onerec up``: prepare, run the loop to the end of its log, judge, report; and leave nothing running."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from common import access
from common.process_log import FORMAT_VARIABLE
from common.settings import Settings
from common.stream import StreamError
from deploy.dashboard.figures import FigureReader
from deploy.local.letters import read_dead_letters
from deploy.local.live import View, loop_details
from deploy.local.phase import STREAMING, note_end, note_phase
from deploy.local.plots import draw_plots
from deploy.local.processes import StackError
from deploy.local.report import build_report
from deploy.local.report_table import report_table
from deploy.local.run_folder import RunFolder, default_path, read_json, write_json
from deploy.local.stack import Stack, run_lanes

KEPT = (access.PREFIX, FORMAT_VARIABLE)
"""Variables that are facts of the machine, not settings of the run."""
PREPARATION: list[tuple[str, list[list[str]]]] = [
    ("session log", [["log"]]),
    ("semantic IDs", [["tokenize"]]),
    ("pre-training and preference model", [["pretrain"], ["reward"]]),
]
JUDGEMENT: list[tuple[str, list[list[str]]]] = [
    ("evaluation before and after", [["before", "baselines"], ["after"]]),
    ("comparison", [["compare"]]),
]


class Stopped(BaseException):
    """A signal asked us to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def run_loop(source: dict[str, str], settings: Settings, folder: Path | None, report_file: Path | None, speed: float) -> int:
    """The whole of ``onerec up`` after its checks; the exit code.

    Raises:
        StackError: a part failed. ValueError: the run folder is taken.
    """
    began = time.monotonic()
    run = RunFolder.create((folder or default_path()).resolve(), settings, source)
    _hide_environment()
    console = Console(stderr=True)
    console.print(f"run folder {run.path}", highlight=False, soft_wrap=True)
    try:
        with (
            _signals(partial(note_end, run, "interrupted")),
            View(console, partial(note_phase, run)) as view,
            Stack(run, settings, speed) as stack,
        ):
            stack.start_brokers()
            _lanes(run, view, PREPARATION)
            _stream(run, settings, stack, view)
            _lanes(run, view, JUDGEMENT)
        write_json(run.path / "timing.json", {"duration_s": time.monotonic() - began, "phases_s": view.seconds})
        finish(run, report_file)
    except Stopped as stopped:
        console.print(
            f"interrupted; everything is stopped, what there is lies in {run.path}", highlight=False, soft_wrap=True
        )
        return stopped.exit_code
    except Exception as error:
        note_end(run, "failed", str(error).partition("\n")[0])
        raise
    note_end(run, "finished")
    return 0


def finish(run: RunFolder, report_file: Path | None) -> None:
    """Write the report and its plots into the run folder (and to ``report_file``), and print its table."""
    report = build_report(run)
    write_json(run.report / "report.json", report)
    plots = draw_plots(run, report)
    if report_file is not None:
        report_file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.report / "report.json", report_file)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(report_table(report))
    console.print(f"report {report_file or run.report / 'report.json'}, {len(plots)} plots in {run.report}", soft_wrap=True)


def _lanes(run: RunFolder, view: View, phases: list[tuple[str, list[list[str]]]]) -> None:
    for name, lanes in phases:
        view.phase(name)
        run_lanes(run, lanes, view.details)


def _stream(run: RunFolder, settings: Settings, stack: Stack, view: View) -> None:
    view.phase("starting reward service, learner, trainer, tokenizer and fleet")
    if settings.dashboard.on:
        stack.start_dashboard()
    stack.start_workers()
    if settings.dashboard.on:
        view.note(_page_told(stack))
    if settings.recommend.on:
        view.note(f"lists of items at {read_json(run.ready_file('recommend'))['url']}/v1/recommend")
    view.phase(STREAMING)
    stack.start_replay()
    figures = FigureReader(run)
    stack.watch(lambda: view.details(loop_details(figures.read(), stack.restarts)))
    view.phase("stopping")
    _keep_dead_letters(run, settings, stack)
    stack.stop_loop()


def _page_told(stack: Stack) -> str:
    """Where the page is; the loop runs as well without one."""
    try:
        return f"the loop as a page at {stack.dashboard_address()}"
    except StackError as error:
        return f"no page of the loop: {str(error).partition(chr(10))[0]}"


def _keep_dead_letters(run: RunFolder, settings: Settings, stack: Stack) -> None:
    try:
        letters = read_dead_letters(stack.kafka, read_json(run.endpoints)["prefix"], settings.stream.timeout_s)
    except StreamError as error:
        sys.stderr.write(f"the dead letters could not be read, the report has the trainer's own count: {error}\n")
        return
    write_json(run.path / "dead_letters.json", letters)


def _hide_environment() -> None:
    """Settings are resolved: children read them from the run folder, and must not change them by the environment again.
    Whom they may talk to and how they log, they still read there."""
    for name in [name for name in os.environ if name.startswith("ONEREC_") and not name.startswith(KEPT)]:
        del os.environ[name]


@contextmanager
def _signals(on_stop: Callable[[], None]) -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into ``on_stop`` and `Stopped`; later ones must not disturb the stopping."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        on_stop()
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
