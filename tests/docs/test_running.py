"""The commands of the pages, typed as printed while a loop runs: each ends well.

Words in capitals have stand-ins, the profile `demo` has `test`, and what is in `LEFT_OUT` is not typed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.run_folder import RunFolder, read_json
from tests.docs.printed import NAMES, Command, commands
from tests.loop.up import Up
from trainer.checkpoint import committed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
LEFT_OUT = {
    "make": "sets this checkout up, tests it or runs the demo: what the suite and a fresh clone do",
    "docker": "needs a container engine",
    "kubectl": "needs a cluster",
    "cp": "belongs to a container engine's commands",
    "cd": "belongs to a container engine's commands",
    "password=$(openssl": "belongs to a cluster's commands",
    "onerec init": "needs a Kafka that stays; its test starts one",
    "onerec bench": "measures for minutes, and only on an idle machine",
    "onerec experiment": "takes an hour",
    "onerec up --data kuairand_pure": "takes a public data set",
    "onerec export rollout-groups groups.jsonl.gz": "names offsets of some run",
    "onerec export sessions morning.jsonl.gz": "names a morning of some run",
    "onerec replay sessions --run-folder": "names hours of some run",
    "onerec replay sessions.jsonl.gz": "needs a second run; its test has a second topic",
    "onerec bundle BUNDLE --run-folder RUN --from": "names steps of some run",
    "onerec train --replay BUNDLE --kafka": "needs a second Kafka; its test has one",
    "onerec replay dead-letters letters.jsonl": "needs letters that somebody has mended; its test mends some",
    "torchrun": "takes the cores of four",
}
ENDS_S, READY_S = 900.0, 300.0
SLOWLY = ["--speed", "400", "--set", "recommend.on=true"]


class Place:
    """Where the commands are typed: a folder with the environment, a session log and a loop that runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".venv").symlink_to(sys.prefix)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ONEREC_")}
        self.environment = clean | {"PATH": f"{sys.prefix}/bin:{os.environ['PATH']}", "COLUMNS": "120"}
        self.started: list[subprocess.Popen[bytes]] = []
        self.log = folder / "log"
        self.finish(["onerec", "simulate", "--profile", "test", "--out", str(self.log)])
        self.up = Up.start(folder, *SLOWLY)
        self.up.until(lambda: self.up.run.ready_file("recommend").exists() and len(committed(self.up.run.checkpoints)) > 1)
        self.newest = self.up.run.path
        (folder / "runs").mkdir()
        (folder / "runs" / "newest").symlink_to(self.up.run.path)

    def words(self, command: Command) -> list[str]:
        """The command with its stand-ins."""
        run = str(self.up.run.path)
        stand_ins = {"RUN": run, "FOLDER": str(self.log), "FILE": "file.json", "demo": "test"}
        stand_ins |= {"8,64,512": "8,64"}  # of the few semantic IDs that there are
        address: str = read_json(self.newest / "ready" / "recommend.json").get("url", "")
        return [stand_ins.get(word, word.replace("ADDRESS", address)) for word in command.words]

    def finish(self, words: list[str]) -> None:
        """Type a command that ends by itself."""
        ended = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=ENDS_S)
        assert ended.returncode == 0, f"{' '.join(words)}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"

    def start(self, words: list[str]) -> None:
        """Type a command that goes on, and leave it until it can be used."""
        process = subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL)
        self.started.append(process)
        if words[1] == "up":
            self.newest = self.folder / words[words.index("--run-folder") + 1]
            checkpoints = RunFolder(self.newest).checkpoints
            self._await(lambda: len(committed(checkpoints)) > 1, process)
        else:
            time.sleep(5.0)  # it has told no mistake by then
            assert process.poll() is None, " ".join(words)

    def close(self) -> None:
        """End all that goes on."""
        for process in [*self.started, self.up.process]:
            process.send_signal(signal.SIGINT)
            process.wait(120)

    def _await(self, ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_S
        while not ready():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("place"))
    yield place
    place.close()


def left_out(command: Command) -> bool:
    typed = " ".join((command.program, *command.words[1:], ""))
    return any(typed.startswith(f"{words} ") for words in LEFT_OUT)


def goes_on(words: list[str]) -> bool:
    return (
        "--follow" in words or "-f" in words or words[1] in {"dashboard", "top"} or (words[1] == "up" and "--speed" in words)
    )


@pytest.mark.parametrize("page", NAMES)
def test_a_page_can_be_typed(page: str, place: Place) -> None:
    for name in ("OUT", "BALANCED", "ALIGNED", "BUNDLE", "AGAIN"):
        shutil.rmtree(place.folder / name, ignore_errors=True)
    for command in commands(page):
        if command.block and not left_out(command):
            words = place.words(command)
            (place.start if goes_on(words) else place.finish)(words)
