from pathlib import Path

import pytest

from common.messages import Impression, RolloutRequest, Session, UserContext
from common.record_file import RecordFileHeader, write_records
from common.stream import Record, partition_of
from deploy.data.recorded import from_file
from deploy.data.selection import of_user

USER = 3
HOME = partition_of(USER, 2)


def request(user: int, partition: int) -> Record:
    message = RolloutRequest(
        request_id="r", run="x", topic="x.sessions", partition=partition, offset=0, digest="", tokenizer_version="t",
        context=UserContext(user_id=user, time_ms=0), index_version=1, requested_ms=0,
    )  # fmt: skip
    return Record("x.rollout-requests", partition, 0, 0, None, message.to_bytes(), [])


def test_a_request_is_of_the_user_whose_context_it_carries() -> None:
    selects = of_user("rollout-requests", USER, 2, None)
    assert selects(request(USER, HOME))
    assert not selects(request(USER + 1, HOME))
    assert not selects(request(USER, 1 - HOME))  # where none of the user's can lie
    assert not selects(Record("x.rollout-requests", HOME, 0, 0, None, b"{", []))


def test_what_is_nobodys_is_told() -> None:
    with pytest.raises(ValueError, match=r"--user selects records of sessions, .*, got items"):
        of_user("items", USER, 1, None)
    with pytest.raises(ValueError, match="--user of rollout-groups needs --run-folder"):
        of_user("rollout-groups", USER, 2, None)


def test_a_files_records_may_be_asked_for_those_of_user_0(tmp_path: Path) -> None:
    header = RecordFileHeader(log="c/t", topic="p.sessions", partitions=1, ranges={0: (0, 2)})
    session = Session(session_id="s", user_id=0, time_ms=5, impressions=[Impression(item_id=1, time_ms=5)])
    others = session.model_copy(update={"user_id": 3})
    records = [Record("p.sessions", 0, k, 5, None, one.to_bytes(), []) for k, one in enumerate((session, others))]
    write_records(tmp_path / "file", header, records)
    source = from_file(tmp_path / "file", None, None, user=0)
    assert source.user == 0
    assert [record.offset for record in source.records] == [0]
