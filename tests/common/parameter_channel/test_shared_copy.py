from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from common.parameter_channel import shared_copy
from common.parameter_channel.manifest import digest
from common.parameter_channel.shared_copy import SharedCopy


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(shared_copy, "MEMORY", tmp_path / "memory")
    return tmp_path / "memory"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def writes(data: bytes) -> shared_copy.Fetch:
    def fetch(into: shared_copy.Sink) -> bool:
        into.write(data)
        return True

    return fetch


def never(_: shared_copy.Sink) -> bool:
    raise AssertionError("fetched again")


def test_a_second_reader_finds_what_the_first_has_fetched_and_the_last_one_leaves_nothing(run: Path, memory: Path) -> None:
    first, second = (SharedCopy(run, "fp32", 1.0) for _ in range(2))
    assert bytes(first.get(1, digest(b"one"), writes(b"one")) or b"") == b"one"
    held = second.get(1, digest(b"one"), never)
    assert bytes(first.get(2, digest(b"two"), writes(b"two")) or b"") == b"two"
    assert bytes(held or b"") == b"one"  # its file is gone, its pages are not
    assert second.read(1, digest(b"one")) is None
    first.close()
    assert bytes(second.get(2, digest(b"two"), never) or b"") == b"two"
    second.close()
    assert not list(next(memory.iterdir()).iterdir())


def test_the_memory_of_the_version_before_serves_the_next_one_unless_somebody_reads_it(run: Path) -> None:
    versions = [bytes([k]) * (9000 - 1000 * k) for k in range(6)]
    with closing(SharedCopy(run, "fp32", 1.0)) as copy:

        def take(k: int) -> tuple[bytes, int]:
            held = copy.get(k, digest(versions[k]), writes(versions[k]))
            (file,) = copy.folder.glob("*.safetensors")
            return bytes(held or b""), file.stat().st_ino

        taken = [take(k) for k in range(4)]
        assert [data for data, _ in taken] == versions[:4]
        assert [inode for _, inode in taken][2:] == [inode for _, inode in taken][:2]
        held = copy.read(3, digest(versions[3]))
        take(4)
        assert take(5)[1] not in {inode for _, inode in taken}
        assert bytes(held or b"") == versions[3]


def test_a_fetch_that_fails_halfway_leaves_the_version_at_hand(run: Path) -> None:
    def breaks(into: shared_copy.Sink) -> bool:
        into.write(b"xx")
        return False

    with closing(SharedCopy(run, "fp32", 1.0)) as copy:
        for version, data in enumerate((b"one", b"two", b"three")):
            assert copy.get(version, digest(data), breaks) is None
            assert bytes(copy.get(version, digest(data), writes(data)) or b"") == data
            assert copy.get(9, digest(b"nine"), breaks) is None
            assert bytes(copy.get(version, digest(data), never) or b"") == data


def test_readers_that_come_and_go_at_once_always_find_each_others_folder(run: Path) -> None:
    def come_and_go(_: int) -> bool:
        for _ in range(30):
            with closing(SharedCopy(run, "fp32", 5.0)) as copy:
                if bytes(copy.get(1, digest(b"one"), writes(b"one")) or b"") != b"one" or not list(copy.folder.glob("0*")):
                    return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(come_and_go, range(4)))


def test_runs_and_precisions_share_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    copies = [SharedCopy(folder, kind, 1.0) for folder in (run, tmp_path / "other") for kind in ("fp32", "bf16")]
    assert len({copy.folder for copy in copies}) == 4
    for copy in copies:
        copy.close()


def test_what_is_not_whole_is_not_used(run: Path) -> None:
    with closing(SharedCopy(run, "fp32", 1.0)) as copy:
        assert copy.get(1, digest(b"one"), writes(b"on")) is None
        assert copy.get(1, digest(b"one"), lambda _: False) is None
        assert bytes(copy.get(1, digest(b"one"), writes(b"one")) or b"") == b"one"


def test_what_a_killed_reader_left_goes_with_the_next_one(run: Path, tmp_path: Path, memory: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from common.parameter_channel import shared_copy;"
        "shared_copy.MEMORY = Path(sys.argv[1]); shared_copy.SharedCopy(Path(sys.argv[2]), 'fp32', 1.0);"
        "print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(memory), str(run)]
    (tmp_path / "other").mkdir()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        with closing(SharedCopy(tmp_path / "other", "fp32", 1.0)) as one:
            assert len(list(one.folder.parent.iterdir())) == 2
        reader.kill()
        reader.wait()
        with closing(SharedCopy(tmp_path / "other", "fp32", 1.0)) as one:
            assert list(one.folder.parent.iterdir()) == [one.folder]


@pytest.mark.parametrize("obstacle", ["absent", "open to others"])
def test_where_memory_cannot_be_shared_the_run_folder_is(
    run: Path, memory: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if obstacle == "absent":
        monkeypatch.setattr(shared_copy, "MEMORY", memory / "absent")
    else:
        (memory / f"onerec-{os.getuid()}").mkdir(mode=0o777)
        (memory / f"onerec-{os.getuid()}").chmod(0o777)
    with closing(SharedCopy(run, "fp32", 1.0)) as copy:
        assert run in copy.folder.parents
        assert bytes(copy.get(1, digest(b"one"), writes(b"one")) or b"") == b"one"
