from __future__ import annotations

from threading import Event

from deploy.local.checks import Check, Finding, Skip, Trouble, find


def raises(error: Exception) -> Check:
    def look() -> str:
        raise error

    return Check("a part", look, "do this")


def test_a_check_says_what_it_found_or_what_is_wrong_and_how_to_mend_it() -> None:
    assert find(Check("a part", lambda: "fine")) == Finding("a part", "ok", "fine")
    assert find(raises(Trouble("bad", "mend it"))) == Finding("a part", "error", "bad", "mend it")
    assert find(raises(Trouble("odd", "look", "warning"))) == Finding("a part", "warning", "odd", "look")
    assert find(raises(Skip("not there"))) == Finding("a part", "skipped", "not there")


def test_what_a_check_did_not_foresee_is_an_error_in_one_line() -> None:
    assert find(raises(OSError("one\ntwo"))) == Finding("a part", "error", "one two", "do this")
    assert find(raises(RuntimeError())) == Finding("a part", "error", "RuntimeError", "do this")


def test_a_check_that_hangs_is_an_error() -> None:
    never = Event()
    finding = find(Check("a part", lambda: str(never.wait(60))), patience_s=0.05)
    never.set()
    assert (finding.state, finding.found) == ("error", "no answer within 0.05 s")
