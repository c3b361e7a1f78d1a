"""Mistakes a user can mend: one sentence each, exit code 2, no traceback."""

from __future__ import annotations

import difflib
import io
import math
import sys
from collections.abc import Callable, Iterable

from encdec_lightning.signals import TERMINATION, Terminated

FAILED = 1
EXIT_CODE = 2
INTERRUPTED = 130
TERMINATED = 143
UNREAD = 141
FINITE = "it must be a finite number"


class UserError(ValueError):
    """One mistake: the field, its value and what would be right. `str()` gives the sentence."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(field, value, expected)
        self.field, self.value, self.expected = field, value, expected

    def __str__(self) -> str:
        return f"{self.field} is {self.value!r}: {self.expected}."

    def inside(self, node: str) -> UserError:
        """The same mistake, its field named from one level further up: `num_beams` inside `generation`."""
        return UserError(f"{node}.{self.field}" if node else self.field, self.value, self.expected)


class UserErrors(ValueError):
    """Several mistakes found together; `problems` holds a `UserError` each."""

    def __init__(self, problems: Iterable[UserError]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def reason(error: BaseException) -> str:
    """An exception in one line: a user's mistakes in their own sentences, else the exception's type and text."""
    text = str(error) if isinstance(error, UserError | UserErrors) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def is_finite(value: object) -> bool:
    """Whether a value is no number at all, or a finite one."""
    return not isinstance(value, float) or math.isfinite(value)


def require(*rules: tuple[str, object, bool, str]) -> None:
    """Raise `UserErrors` naming every rule that does not hold; a rule is (field, value, holds, what would be right).

    Numbers must be finite, whatever their rule says.
    """
    problems = [
        UserError(field, value, expected if is_finite(value) else FINITE)
        for field, value, holds, expected in rules
        if not holds or not is_finite(value)
    ]
    if problems:
        raise UserErrors(problems)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, or None when no one is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing when no known word is close."""
    near = nearest(word, known)
    return f" (did you mean {near!r}?)" if near is not None else ""


class ReaderGone(Exception):
    """Nobody reads stdout any more."""


class JobFailed(Exception):
    """A job failed in a process of its own, which has shown its traceback; `str()` says what failed, where and why."""


def exit_code(work: Callable[[], object], silent: bool = False) -> int:
    """Do `work` and give the exit code: 0, or 2 after a user's mistakes, which are printed a line each to stderr.

    As in a shell, interrupting gives 130, a reader of stdout that goes away 141, and SIGTERM 143. Jobs that failed in
    other processes give 1. Every other exception is a bug and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what an ASCII terminal cannot show stops no work
            stream.reconfigure(errors="backslashreplace")
    try:
        with TERMINATION.handled():
            work()
    except (UserError, UserErrors) as error:
        if not silent and str(error):
            print(error, file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        return TERMINATED
    except ReaderGone:
        return UNREAD
    except JobFailed as error:
        print(error, file=sys.stderr)
        return FAILED
    return 0
