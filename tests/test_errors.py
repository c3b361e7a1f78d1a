"""A user's mistake: one sentence, exit code 2; a bug keeps its traceback."""

from __future__ import annotations

import signal

import pytest

from encdec_lightning.errors import JobFailed, UserError, UserErrors, did_you_mean, exit_code, reason, require


def raising(error: BaseException):
    def work() -> None:
        raise error

    return work


def test_one_sentence():
    error = UserError("num_beams", 0, "it must be at least 1")
    assert str(error) == "num_beams is 0: it must be at least 1."
    assert str(error.inside("generation")) == "generation.num_beams is 0: it must be at least 1."
    assert str(error.inside("")) == str(error)
    assert (error.field, error.value, error.expected) == ("num_beams", 0, "it must be at least 1")


def test_require_names_every_broken_rule():
    require(("a", 1, True, "fine"))
    with pytest.raises(UserErrors) as caught:
        require(("a", 1, False, "x"), ("b", 2, True, "y"), ("c", 3, False, "z"))
    assert str(caught.value) == "a is 1: x.\nc is 3: z."


def test_did_you_mean():
    assert did_you_mean("num_beam", ["seed", "num_beams"]) == " (did you mean 'num_beams'?)"
    assert did_you_mean("zzz", ["seed", "num_beams"]) == ""
    assert did_you_mean("x", []) == ""


def test_exit_codes(capsys):
    assert exit_code(lambda: None) == 0
    assert exit_code(raising(UserError("a", 1, "x"))) == 2
    assert exit_code(raising(UserErrors([UserError("b", 2, "y"), UserError("c", 3, "z")]))) == 2
    assert capsys.readouterr() == ("", "a is 1: x.\nb is 2: y.\nc is 3: z.\n")
    assert exit_code(raising(KeyboardInterrupt())) == 130
    assert exit_code(raising(JobFailed("this and that"))) == 1
    assert capsys.readouterr() == ("", "this and that\n")


def test_sigterm_is_143_and_afterwards_what_it_was():
    before = signal.getsignal(signal.SIGTERM)
    assert exit_code(lambda: signal.raise_signal(signal.SIGTERM)) == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_reason_is_one_line():
    assert reason(UserErrors([UserError("a", 1, "x"), UserError("b", 2, "y")])) == "a is 1: x. b is 2: y."
    assert reason(KeyError("two\nlines")) == "KeyError: 'two\\nlines'"
    assert reason(RuntimeError("two\nlines")) == "RuntimeError: two lines"


def test_silent_ranks_and_mistakes_that_were_said_already(capsys):
    assert exit_code(raising(UserError("a", 1, "x")), silent=True) == 2
    assert exit_code(raising(UserErrors([]))) == 2
    assert capsys.readouterr() == ("", "")


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0)
