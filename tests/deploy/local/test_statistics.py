from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from deploy.local.run_folder import RunFolder
from deploy.local.statistics import RunStatistics, Tail

WRITER = """
import json, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
file = open(sys.argv[1], "a", encoding="utf-8")
file.writelines(json.dumps({"step": int(step)}) + "\\n" for step in sys.argv[3:])
file.flush()
"""


def write(path: Path, room: int, *steps: int) -> bool:
    """Whether a process could append these lines to a disk with so much room for the file."""
    command = [sys.executable, "-c", WRITER, str(path), str(room), *map(str, steps)]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_lines_are_told_once_and_only_when_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_text('{"step": 1}\n{"st')
    assert list(tail.lines()) == [{"step": 1}]
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert list(tail.lines()) == [{"step": 2}]


def test_a_line_that_its_writer_left_torn_is_left_out(tmp_path: Path) -> None:
    """The disk was full; the process that comes after it appends to what it left."""
    path = tmp_path / "stats.jsonl"
    tail, room = Tail(path), len(json.dumps({"step": 1})) + 7
    assert not write(path, room, 1, 2)
    assert write(path, 1000, 2, 3)
    assert not path.read_bytes().splitlines()[1].startswith(b'{"step": 2}')
    assert list(tail.lines()) == [{"step": 1}, {"step": 3}]
    assert list(Tail(path).lines()) == [{"step": 1}, {"step": 3}]


def test_a_group_that_was_settled_again_after_a_kill_counts_as_it_was_at_first(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    told = {"kind": "group", "step": 3, "record": [0, 7], "outcome": "trained", "parity_error": 1e-6}
    again = told | {"parity_error": None, "produced_to_trained_ms": 60_000}
    lines = [told | {"produced_to_trained_ms": 5}, {"kind": "step", "step": 3, "seconds": 1.0}]
    lines += [again, {"kind": "step", "step": 3, "seconds": 2.0}]
    (tmp_path / "trainer_stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    statistics = RunStatistics(run)
    statistics.refresh()
    assert statistics.groups == lines[:1]
    assert statistics.steps == lines[3:]
