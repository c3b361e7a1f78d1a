"""Mistakes a user can mend: one sentence each, exit code 2, no traceback."""

from __future__ import annotations

import difflib
import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from encdec_lightning.credentials import HIDDEN, secret_in, without_secrets
from encdec_lightning.signals import TERMINATION, Terminated

FAILED = 1
EXIT_CODE = 2
INTERRUPTED = 130
TERMINATED = 143
UNREAD = 141
FINITE = "it must be a finite number"

NO_MEMORY = re.compile("DefaultCPUAllocator: (can't allocate|not enough) memory")  # a plain RuntimeError of torch

LONGEST = 200  # characters of a value, or of a word, in a sentence
TOO_LARGE = "it must be a number of at most 64 bits"


class UserError(ValueError):
    """One mistake: the field, its value and what would be right. `str()` gives the sentence, on one line.

    A long value is shortened there, and its length told; `value` keeps all of it.
    """

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(field, value, expected)
        self.field, self.value, self.expected = field, value, expected

    def __str__(self) -> str:
        name = self.field if self.field.isprintable() else repr(self.field)[1:-1]
        expected = without_secrets(" ".join(self.expected.split()))
        value = HIDDEN if secret_in(self.field, self.value) == "a secret" else self.value
        return f"{_with_short_words(name)} is {shown(value)}: {_with_short_words(expected)}."

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


def shown(value: object) -> str:
    """A value as Python writes it, secrets hidden; of a long one the start, the end and how long it is."""
    is_text = isinstance(value, str)
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists inside thousands of lists
        return f"a value of the type {type(value).__name__} that is too large to be shown"
    text = without_secrets(text)
    if len(text) <= LONGEST:
        return text
    length = len(value) if isinstance(value, str) else len(text)
    return f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]} ({length:,} characters{'' if is_text else ' as text'})"


def _with_short_words(text: str) -> str:
    """The text, its words without spaces shortened as values are."""
    return re.sub(rf"\S{{{LONGEST},}}", lambda word: f"{word[0][: LONGEST // 2]} ... {word[0][-LONGEST // 4 :]}", text)


def reason(error: BaseException) -> str:
    """An exception in one line: a user's mistakes in their own sentences, else the exception's type and text."""
    text = str(error) if isinstance(error, UserError | UserErrors) else f"{type(error).__name__}: {error}"
    return without_secrets(" ".join(text.split()))


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that the memory is used up: a device's, or on a processor torch's or Python's own."""
    kinds = {kind.__name__ for kind in type(error).__mro__}  # torch, which is slow to import, may not be there
    if isinstance(error, RuntimeError):
        return "OutOfMemoryError" in kinds or NO_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError)


def is_finite(value: object) -> bool:
    """Whether a value is no number at all, or a finite one."""
    return not isinstance(value, float) or math.isfinite(value)


def require(*rules: tuple[str, object, bool, str]) -> None:
    """Raise `UserErrors` naming every rule that does not hold; a rule is (field, value, holds, what would be right).

    A number that is not finite is never right, and no whole number that 64 bits do not hold.
    """
    problems: list[UserError] = []
    for field, value, holds, expected in rules:
        if not is_finite(value):
            problems.append(UserError(field, value, FINITE))
        elif holds and isinstance(value, int) and abs(value) >= 2**63:
            problems.append(UserError(field, value, TOO_LARGE))
        elif not holds:
            problems.append(UserError(field, value, expected))
    if problems:
        raise UserErrors(problems)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, by its initials (lr) or its letters; None when no one is close."""
    words = list(known)
    of_initials = [each for each in words if "_" in each and "".join(part[:1] for part in each.split("_")) == word]
    close = of_initials or difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return close[0] if close else None


def one_of(choices: Iterable[str]) -> str:
    """`it must be one of a, b`."""
    return f"it must be one of {', '.join(choices)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing when no known word is close."""
    near = nearest(word, known)
    return f" (did you mean {near!r}?)" if near is not None else ""


class ReaderGone(Exception):
    """Nobody reads stdout any more."""


@contextmanager
def writing_stdout() -> Iterator[None]:
    """Raise `ReaderGone` or `UserError` where stdout takes no more of what the block writes, as on a full disk.

    The block does nothing else that may raise an `OSError`.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)  # for what is left in the buffer, which is flushed at the end
        with suppress(OSError, ValueError):  # it may be no file of the system
            os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from None
        expected = f"what is said there cannot be written ({error.strerror}); make room, or give another place"
        raise UserError("stdout", getattr(sys.stdout, "name", None), expected) from error


def _done(work: Callable[[], object]) -> None:
    """Do the work; what rich cannot print to stdout, or is left in its buffer, ends as in `writing_stdout`."""
    try:
        work()
    except OSError as error:
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        if at is None or not str(at.tb_frame.f_globals.get("__name__")).startswith("rich."):
            raise
        with writing_stdout():
            raise
    with writing_stdout():
        pass


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
            _done(work)
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
