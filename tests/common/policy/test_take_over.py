"""Policies whose weights are the pages of a file that others map, too."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from common.features import Featurizer
from common.parameter_channel import shared_copy
from common.parameter_channel.manifest import digest
from common.parameter_channel.shared_copy import SharedCopy, Sink
from common.parameter_channel.wire import halved
from common.policy import Policy, _populate, bare_policy, build_policy, take_over, to_blob
from common.settings import PolicySettings
from tests.factories import ARCHITECTURES, TINY, make_context, make_index


def mapped(file: Path, access: int = mmap.ACCESS_COPY) -> mmap.mmap:
    with file.open("r+b") as opened:
        return mmap.mmap(opened.fileno(), 0, access=access)


def taken(blob: mmap.mmap | bytes, settings: PolicySettings = TINY) -> Policy:
    policy = bare_policy(settings).eval()
    take_over(policy, blob)
    return policy


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_bytes(to_blob(build_policy(TINY)))
    return tmp_path / "weights"


@pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_every_architecture_computes_the_same_with_weights_where_they_lie(settings: PolicySettings, tmp_path: Path) -> None:
    policy = build_policy(settings).eval()
    (tmp_path / "weights").write_bytes(to_blob(policy))
    other = taken(mapped(tmp_path / "weights"), settings)
    assert to_blob(other) == to_blob(policy)
    inputs = Featurizer(settings, make_index())([make_context(9)])
    codes = torch.randint(0, TINY.codes, (1, 4, TINY.levels), generator=torch.Generator().manual_seed(0))
    expected, found = (one.log_probs(one.encode(inputs), codes) for one in (policy, other))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_policy_whose_weights_are_yet_to_come_loads_none_of_torchs_compiler() -> None:
    script = (
        "import sys; from common.policy import bare_policy; from tests.factories import ARCHITECTURES;"
        "[bare_policy(settings) for settings in ARCHITECTURES.values()];"
        "print(sorted({'torch._dynamo', 'sympy'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_policies_share_the_files_pages_until_one_writes_to_its_own(file: Path) -> None:
    one, two = taken(mapped(file)), taken(mapped(file))
    everyones = torch.frombuffer(mapped(file, mmap.ACCESS_WRITE), dtype=torch.uint8)
    everyones[-4:] = 0  # nobody may do this: it shows whose pages the policies have
    zeroed = file.read_bytes()
    assert to_blob(one) == to_blob(two) == zeroed != to_blob(build_policy(TINY))
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(1)
    assert to_blob(one) != zeroed
    assert to_blob(two) == file.read_bytes() == zeroed


def test_weights_in_memory_or_of_another_precision_are_copied(file: Path) -> None:
    assert to_blob(taken(file.read_bytes())) == file.read_bytes()
    half = halved(file.read_bytes())
    file.write_bytes(half)
    policy = taken(mapped(file))
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
    assert halved(to_blob(policy)) == half


def test_a_policy_keeps_its_version_while_newer_ones_come_and_lets_go_of_it_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_copy, "MEMORY", tmp_path)
    versions = [to_blob(build_policy(TINY, seed)) for seed in range(6)]
    with closing(SharedCopy(tmp_path, "fp32", 1.0)) as copy:
        slow, quick = bare_policy(TINY), bare_policy(TINY)

        def take(policy: Policy, version: int) -> int:
            """Into which file the version came."""

            def fetch(into: Sink) -> bool:
                into.write(versions[version])
                return True

            blob = copy.get(version, digest(versions[version]), fetch)
            assert blob is not None
            take_over(policy, blob)
            (file,) = copy.folder.glob("*.safetensors")
            return file.stat().st_ino

        first = take(slow, 0)
        later = [take(quick, version) for version in range(5)]
        assert later[0] == first
        assert first not in later[1:]
        assert to_blob(slow) == versions[0]
        assert to_blob(quick) == versions[4]
        assert later[3:] == later[1:3]  # two files take turns
        assert take(slow, 4) == later[4]
        assert take(quick, 5) == later[3]
        assert to_blob(slow) == versions[4]


def test_other_threads_go_on_while_the_kernel_finds_the_pages(tmp_path: Path) -> None:
    """It fails where the interpreter lock is held: then the longest pause is as long as the whole."""
    pauses: list[float] = []
    done = threading.Event()

    def other() -> None:
        last = time.perf_counter()
        while not done.wait(0.0005):
            pauses.append(time.perf_counter() - last)
            last = time.perf_counter()

    thread = threading.Thread(target=other)
    thread.start()
    shares = []
    for attempt in range(3):  # a busy machine pauses threads, too
        file = tmp_path / f"large-{attempt}"
        file.touch()
        os.truncate(file, 2**29)
        blob = mapped(file)
        pauses.clear()
        began = time.perf_counter()
        _populate(blob)
        took = time.perf_counter() - began
        time.sleep(0.01)
        shares.append(max(pauses) / took)
        file.unlink()
    done.set()
    thread.join()
    assert min(shares) < 0.5
