from pathlib import Path

import pytest

from trainer.journal import Journal, JournalEntry, JournalError, SettledGroup

GROUP = SettledGroup(record=(0, 3), request=(1, 17), request_id="run/sessions/1/17", outcome="trained")


def entry(step: int) -> JournalEntry:
    return JournalEntry(step=step, ranges={0: (4 * step, 4 * step + 4), 1: (0, 0)}, groups=[GROUP], index_version=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = Journal(tmp_path / "journal.jsonl")
    for step in range(1, 5):
        journal.append(entry(step))
    journal.close()
    return journal.path


def test_the_entries_behind_a_step_come_back_as_written(path: Path) -> None:
    journal = Journal(path)
    assert journal.after(2) == [entry(3), entry(4)]
    assert journal.after(4) == []
    journal.append(entry(5))
    assert journal.after(3) == [entry(4), entry(5)]
    journal.close()


def test_a_torn_last_line_never_ran_and_is_dropped_wherever_it_tore(path: Path) -> None:
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    for cut in range(start + 1, len(whole)):
        path.write_bytes(whole[:cut])
        journal = Journal(path)
        assert [e.step for e in journal.after(0)] == [1, 2, 3]
        journal.append(entry(4))
        journal.close()
        assert path.read_bytes() == whole


def test_steps_that_were_never_executed_are_taken_off_the_record(path: Path) -> None:
    whole = path.read_bytes()
    journal = Journal(path)
    assert journal.last() == 4
    journal.drop_after(2)
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])
    assert journal.last() == 2
    journal.append(entry(3))
    journal.append(entry(4))
    journal.close()
    assert path.read_bytes() == whole


def test_an_empty_journal_ends_before_the_first_step(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert (journal.last(), journal.after(0)) == (0, [])
    journal.close()


def test_a_flipped_byte_is_an_error_that_names_file_and_line(path: Path) -> None:
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for at in range(second, whole.index(b"\n", second)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        journal = Journal(path)
        with pytest.raises(JournalError, match=r"journal\.jsonl line 2 is damaged"):
            journal.after(0)
        journal.close()


def test_a_journal_that_does_not_follow_the_checkpoint_is_refused(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    journal = Journal(path)
    with pytest.raises(JournalError, match="line 2: expected step 2, got 3"):
        journal.after(0)
    assert [e.step for e in journal.after(2)] == [3, 4]
    journal.close()


def test_one_trainer_at_a_time(path: Path) -> None:
    whole = path.read_bytes() + b'{"half'
    journal = Journal(path)
    path.write_bytes(whole)
    with pytest.raises(JournalError, match="is another trainer's, which still runs"):
        Journal(path)
    assert path.read_bytes() == whole  # what the other one is writing is left alone
    journal.close()
    Journal(path).close()
