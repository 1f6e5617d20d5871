"""The online learner on a real broker: it learns on, commits versions, and a restart loses and repeats nothing."""

from __future__ import annotations

import json
import secrets
import shutil
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest
import torch

from common.messages import Session
from common.settings import Settings, save_settings
from common.stream import Producer, StreamError, create_topics, partition_of, topic_name
from reward_service.artefact import committed, load_artefact
from reward_service.online import OnlineLearner, follow
from tests.reward_service.tiny_world import DAYS, USERS, make_index, make_sessions, tiny_settings

TIMEOUT_S = 10.0
PARTITIONS = 2
MORE = make_sessions(seed=5)
"""Of the same days: only the order on the topic matters here."""


@pytest.fixture
def folder(run_folder: Path, tmp_path: Path) -> Path:
    for name in ("reward", "index", "log"):
        shutil.copytree(run_folder / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def prefix(kafka: str) -> str:
    name = f"learner{secrets.token_hex(4)}"
    create_topics(kafka, name, PARTITIONS, TIMEOUT_S)
    return name


def settings(publish_every: int = 10_000) -> Settings:
    given = tiny_settings()
    online = given.reward.online.model_copy(update={"publish_every": publish_every, "keep": 2})
    reward = given.reward.model_copy(update={"online": online})
    stream = given.stream.model_copy(update={"partitions": PARTITIONS, "timeout_s": TIMEOUT_S})
    return given.model_copy(update={"reward": reward, "stream": stream})


def send(kafka: str, prefix: str, sessions: list[Session], *values: bytes) -> None:
    with closing(Producer(kafka, TIMEOUT_S)) as producer:
        for session in sessions:
            partition = partition_of(session.user_id, PARTITIONS)
            producer.send(topic_name(prefix, "sessions"), session.to_bytes(), partition)
        for value in values:
            producer.send(topic_name(prefix, "sessions"), value, 0)
        producer.flush()


def read_all(learner: OnlineLearner) -> None:
    while True:
        learner.take(0.5)
        if not any(learner.reader.lag().values()):
            return


def renamed(sessions: list[Session]) -> list[Session]:
    """As sessions of the stream, which follow the warm window."""
    later = DAYS * 86_400_000
    return [
        one.model_copy(
            update={
                "session_id": f"stream-{one.session_id}",
                "time_ms": one.time_ms + later,
                "impressions": [i.model_copy(update={"time_ms": i.time_ms + later}) for i in one.impressions],
            }
        )
        for one in sessions
    ]


def test_what_streams_in_is_learned_and_a_version_says_how_far(kafka: str, prefix: str, folder: Path) -> None:
    sessions = renamed(MORE)
    send(kafka, prefix, sessions, b"no session")
    before = load_artefact(folder / "reward")
    learner = OnlineLearner(folder, kafka, prefix, settings())
    with closing(learner):
        read_all(learner)
        learner.publish()
    after = load_artefact(folder / "reward")
    assert after.card.version.startswith("000002-")
    assert after.card.report["judged"] == 4 * len(sessions)
    assert after.card.report["objectives"]["ctr"]["auc"] > 0.75  # the planted taste, on sessions it has not learned from
    assert sum(after.card.positions.values()) == len(sessions) + 1
    assert after.card.weights == before.card.weights
    assert not torch.equal(after.model.head.out.bias, before.model.head.out.bias)


def test_a_restart_goes_on_as_if_there_had_been_none(kafka: str, prefix: str, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "uninterrupted"
    for name in ("reward", "index", "log"):
        shutil.copytree(folder / name, other / name)
    whole = OnlineLearner(other, kafka, prefix, settings())
    with closing(whole):
        for start in (0, 2 * USERS):
            send(kafka, prefix, renamed(MORE)[start : start + 2 * USERS])
            part = OnlineLearner(folder, kafka, prefix, settings())
            with closing(part):
                assert sum(part.reader.positions.values()) == start
                for learner in (whole, part):
                    read_all(learner)
                    learner.publish()
    ours, theirs = (load_artefact(path / "reward") for path in (folder, other))
    assert ours.card.positions == theirs.card.positions
    for name, tensor in ours.model.state_dict().items():
        assert torch.equal(tensor, theirs.model.state_dict()[name]), name


def test_a_lost_history_is_read_again_and_not_learned_from_again(kafka: str, prefix: str, folder: Path) -> None:
    sessions = renamed(MORE)[: 2 * USERS]
    send(kafka, prefix, sessions)
    with closing(OnlineLearner(folder, kafka, prefix, settings())) as learner:
        read_all(learner)
        learner.publish()
    for file in (folder / "reward").glob("history.sqlite*"):
        file.unlink()
    with closing(OnlineLearner(folder, kafka, prefix, settings())) as learner:
        assert sum(learner.reader.positions.values()) == 0
        read_all(learner)
        learner.publish()
        assert sum(learner.history.end(partition) for partition in range(PARTITIONS)) == len(sessions)
    assert committed(folder / "reward") == [1, 2]  # nothing new: nothing committed


def test_versions_follow_each_other_and_old_ones_go(kafka: str, prefix: str, folder: Path) -> None:
    send(kafka, prefix, renamed(MORE))
    learner = OnlineLearner(folder, kafka, prefix, settings(publish_every=100))
    with closing(learner):
        for number in range(3):
            if number:
                again = [one.model_copy(update={"session_id": secrets.token_hex(8)}) for one in renamed(MORE)[:USERS]]
                send(kafka, prefix, again)
            read_all(learner)
            learner.publish()
    assert committed(folder / "reward") == [3, 4]


def test_a_new_item_index_is_taken_up(kafka: str, prefix: str, folder: Path) -> None:
    learner = OnlineLearner(folder, kafka, prefix, settings())
    with closing(learner):
        make_index(version=2).save(folder / "index" / "000002")
        assert learner.indexes.get(2) is not None
        send(kafka, prefix, renamed(MORE)[:USERS])
        read_all(learner)
        learner.publish()
    assert load_artefact(folder / "reward").card.index_version == 2


def test_a_model_of_another_tokenizer_is_refused(kafka: str, prefix: str, folder: Path) -> None:
    shutil.rmtree(folder / "index")
    make_index(tokenizer="another").save(folder / "index" / "000001")
    with pytest.raises(ValueError, match="was trained with tokenizer 't1', the item index is of 'another'"):
        OnlineLearner(folder, kafka, prefix, settings())


def test_a_model_that_is_to_stay_as_it_is_stays(folder: Path, kafka: str, prefix: str) -> None:
    save_settings(settings(publish_every=0), folder / "settings.json")
    (folder / "endpoints.json").write_text(json.dumps({"run": "r", "kafka": kafka, "prefix": prefix, "reward": ""}))
    send(kafka, prefix, renamed(make_sessions()))
    before, stop = sorted((folder / "reward").iterdir()), Event()
    stop.set()
    follow(folder, stop)
    assert (folder / "ready" / "learner.json").exists()
    assert sorted((folder / "reward").iterdir()) == before


def test_another_number_of_partitions_is_refused(kafka: str, folder: Path) -> None:
    """Whose sessions lie in a partition that was added would never be learned from."""
    name = f"learner{secrets.token_hex(4)}"
    create_topics(kafka, name, PARTITIONS + 1, TIMEOUT_S)
    with pytest.raises(StreamError, match=f"topic {name}.sessions has 3 partitions instead of 2"):
        OnlineLearner(folder, kafka, name, settings())


def test_what_a_killed_learner_left_goes_with_its_next_version(kafka: str, prefix: str, folder: Path) -> None:
    """A version half written, and an old one of which it had removed the marker alone."""
    models = folder / "reward"
    for name in (".000007-killed", "000007"):
        shutil.copytree(models / "000001", models / name)
        (models / name / "COMMITTED").unlink()
    send(kafka, prefix, renamed(MORE)[:USERS])
    with closing(OnlineLearner(folder, kafka, prefix, settings())) as learner:
        read_all(learner)
        learner.publish()
    assert sorted(path.name for path in models.iterdir() if path.is_dir()) == ["000001", "000008"]
