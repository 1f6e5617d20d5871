"""A bundle is all that a recorded interval needs, and knows when it is not whole."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
from contextlib import closing
from pathlib import Path

import pytest
import torch
import xxhash

from common.history import HistoryStore
from common.record_file import RecordFile
from common.stream import Producer, create_topics, topic_name
from tests.deploy.cli.in_process import is_told, onerec
from tests.trainer.tiny_run import TinyRun
from trainer import checkpoint as ck
from trainer.bundle import Bundle, BundleError, write_bundle
from trainer.retrain import replay


@pytest.fixture(scope="module")
def bundle(killed: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(killed.folder, tmp_path_factory.mktemp("bundle") / "bundle", commit="abc")


def test_it_is_trained_bit_for_bit_without_broker_and_run(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that was killed in the middle."""
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("nothing is to be connected to"))
    before = {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}
    found = replay(Bundle.open(bundle.path), tmp_path / "again")
    assert found.differences() == []
    assert found.again.state.step == bundle.manifest.last
    assert found.recorded.state.counters["groups.trained"] > 5
    assert before == {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}


def test_it_holds_the_interval_and_nothing_after_or_before(bundle: Bundle) -> None:
    manifest, kept = bundle.manifest, ck.committed(bundle.path / "checkpoints")
    assert kept == [manifest.first, manifest.last]
    start, goal = (ck.load(bundle.path / "checkpoints", step).state for step in kept)
    assert (manifest.commit, manifest.threads, manifest.torch) == ("abc", 1, goal.identity.torch)
    sessions = RecordFile.open(bundle.path / "sessions.jsonl.gz")
    assert sessions.header.topic == topic_name(manifest.prefix, "sessions")
    assert sessions.header.ranges == {p: (start.sessions[p], goal.sessions[p]) for p in goal.sessions}
    assert sessions.count == manifest.sessions == sum(goal.sessions.values()) - sum(start.sessions.values())
    with HistoryStore(bundle.path / "history.sqlite") as history:
        assert {p: history.end(p) for p in start.sessions} == start.sessions


@pytest.mark.parametrize("name", ["sessions.jsonl.gz", "journal.jsonl", "history.sqlite", "trainer_stats.jsonl"])
def test_one_that_is_cut_or_altered_is_refused_with_the_file(bundle: Bundle, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match=f"copy/{name} is cut or altered"):
        Bundle.open(copy)
    (copy / name).write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(BundleError, match=f"copy/{name} is cut or altered"):
        Bundle.open(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"copy/{name} is missing"):
        Bundle.open(copy)


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: bundle\.json is missing"):
        Bundle.open(tmp_path / "nothing")
    (tmp_path / "bundle.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(BundleError, match=r"bundle\.json is damaged"):
        Bundle.open(tmp_path)


def test_what_is_taken_or_was_recreated_is_left_alone(killed: TinyRun, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="bundle exists already"):
        write_bundle(killed.folder, bundle.path)
    other = tmp_path / "other"
    shutil.copytree(killed.folder, other)
    endpoints = json.loads((other / "endpoints.json").read_text())
    create_topics(killed.kafka, "other", killed.settings.stream.partitions, 10.0)
    (other / "endpoints.json").write_text(json.dumps(endpoints | {"prefix": "other"}))
    with pytest.raises(BundleError, match=r"other\.sessions at .* is not the log of .*: it was recreated since"):
        write_bundle(other, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_the_commands_record_an_interval_and_compare_its_replay(
    killed: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _, last = ck.committed(killed.folder / "checkpoints")[-3:]
    path, interval = tmp_path / "bundle", ("--from", first, "--to", last)
    done = onerec(capsys, "bundle", path, "--run-folder", killed.folder, *interval)
    assert (done.code, done.err.splitlines()[-1].partition(" in ")[0]) == (0, f"steps {first} to {last} of {killed.run}")
    done = onerec(capsys, "train", "--replay", path)
    verdict, *table = done.out.splitlines()
    assert (done.code, verdict.partition(",")[0]) == (0, f"bit for bit as recorded: step {last}")
    rewards = next(line for line in table if "mean reward" in line).split("│")
    assert rewards[2] == rewards[3]
    assert float(rewards[2]) > 0
    assert f"steps {first} to {last} of {killed.run}" in done.err


def test_its_records_are_trained_bit_for_bit_from_topics_they_were_put_on_again(
    bundle: Bundle, kafka: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their origins: the target holds other records, too, and the positions there are others."""
    prefix = f"again{secrets.token_hex(4)}"
    create_topics(kafka, prefix, 2, 10.0)
    with closing(Producer(kafka, 10.0)) as producer:
        producer.send(f"{prefix}.sessions", b"{}", 0)
    for name in ("sessions", "rollout-groups"):
        file = bundle.path / f"{name}.jsonl.gz"
        done = onerec(capsys, "replay", file, "--to-topic", name, "--kafka", kafka, "--prefix", prefix)
        assert done.code == 0, done.err
    done = onerec(capsys, "train", "--replay", bundle.path, "--kafka", kafka, "--prefix", prefix)
    assert (done.code, done.out.partition(":")[0]) == (0, "bit for bit as recorded"), done.err


def test_another_torch_is_told_before_training(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "9.9")
    told: list[str] = []
    replay(bundle, tmp_path / "again", lambda *_: told.append(caplog.text))
    assert f"torch was '{bundle.manifest.torch}' and is now '9.9': parameters will not be bit-identical" in told[0]


def test_a_replay_that_comes_out_otherwise_is_told(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recorded with another learning rate."""
    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    settings = json.loads((copy / "settings.json").read_text())
    settings["trainer"]["learning_rate"] *= 2
    (copy / "settings.json").write_text(json.dumps(settings))
    manifest = json.loads((copy / "bundle.json").read_text())
    data = (copy / "settings.json").read_bytes()
    manifest["files"]["settings.json"] = {"nbytes": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)}
    (copy / "bundle.json").write_text(json.dumps(manifest))
    done = onerec(capsys, "train", "--replay", copy)
    assert (done.code, done.out.partition(" at ")[0]) == (1, "DIFFERENT from what was recorded")
    assert "policy." in done.out


def test_mistakes_are_told(bundle: Bundle, killed: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    is_told(capsys, "train", about="train needs either --run-folder or --replay BUNDLE")
    is_told(capsys, "train", "--replay", tmp_path, about="is not a bundle: bundle.json is missing")
    is_told(capsys, "train", "--replay", bundle.path, "--from", 5, about="--from and --to belong to --replay-journal")
    is_told(capsys, "train", "--replay", bundle.path, "--into", bundle.path, about="is not empty")
    is_told(
        capsys, "bundle", tmp_path / "b", "--run-folder", killed.folder, "--to", 3, about="to must be one of the checkpoints"
    )
    is_told(capsys, "bundle", tmp_path / "b", "--run-folder", tmp_path, about="is not a run folder")
    assert list(tmp_path.iterdir()) == []
