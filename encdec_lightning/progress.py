"""How far long work is: a bar that moves in a terminal, a plain line now and then in a log file."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

BAR, REFRESHES = 20, 4
"""In a terminal: columns of the bar, and how often it is drawn a second."""
FIRST_LINE, SECONDS, LINES = 10.0, 30.0, 100
"""In a log file: seconds to the first line, the least between two lines, and about how many there are at most."""


class Progress:
    """Counts what is done of some work, on stderr; a context, outside of which nothing is shown.

    In a terminal one bar moves. Elsewhere, in a log file or a batch job, a whole line is written from time to time, so
    that no line is ever written over. Only ASCII is written where the encoding has no more.
    """

    def __init__(
        self,
        description: str,
        total: int | None = None,
        unit: str = "",
        begin: int = 0,
        console: Console | None = None,
        hidden: bool = False,
    ) -> None:
        """`total` is how much there is to do, in `unit`s, None if nobody knows; `begin` how much was done before."""
        self._console = console or Console(stderr=True, highlight=False, emoji=False)
        self._description, self._total, self._unit, self._begin = description, total, unit, begin
        self._done, self._note = begin, ""
        self._hidden = hidden
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._started: float | None = None
        self._last = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Show it, for the first time or after `stop`: a terminal has room for one bar at a time."""
        if self._started is None:
            self._started = self._last = time.monotonic()
        if not self._hidden and self._console.is_terminal and self._bar is None:
            columns = [
                TextColumn("{task.description}", markup=False),
                BarColumn(BAR),
                TextColumn("{task.fields[note]}"),
            ]
            shown = columns if self._total is not None else [columns[0], columns[2]]
            self._bar = Bar(*shown, console=self._console, transient=True, refresh_per_second=REFRESHES)
            self._task = self._bar.add_task(self._description, total=self._total)
            self._show(self._note)
            self._bar.start()

    def stop(self) -> None:
        """Take the bar away; what was said stays."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @property
    def done(self) -> int:
        """How much is done."""
        return self._done

    def advance(self, count: int = 1, note: str = "") -> None:
        """So much more is done."""
        self.update(self._done + count, note)

    def update(self, done: int, note: str = "") -> None:
        """So much is done in all; `note` stands beside it."""
        self._done, self._note = done, note
        if self._bar is not None:
            self._show(note)
        elif not self._hidden and self._is_time():
            self._last = time.monotonic()
            self.say(f"{self._description}: {self._words(note)}")

    def say(self, line: str) -> None:
        """Write a line that stays, above the bar."""
        if not self._hidden:
            self._console.print(line, soft_wrap=True, markup=False)

    def _show(self, note: str) -> None:
        assert self._bar is not None
        self._bar.update(self._task, completed=self._done, note=self._words(note))

    def _words(self, note: str) -> str:
        of = "" if self._total is None else f" of {self._total:,}"
        parts = [f"{self._done:,}{of} {self._unit}".rstrip(), note, self._left()]
        return ", ".join(part for part in parts if part)

    def _left(self) -> str:
        """How long the rest will take, at the speed so far."""
        done = self._done - self._begin
        if self._started is None or self._total is None or done <= 0 or self._done >= self._total:
            return ""
        seconds = time.monotonic() - self._started
        return f"{duration(seconds * (self._total - self._done) / done)} left"

    def _is_time(self) -> bool:
        now, done = time.monotonic(), self._done - self._begin
        if self._started is None:
            return False
        if self._last == self._started:
            return now - self._started >= FIRST_LINE
        whole = 0.0 if self._total is None else (now - self._started) * (self._total - self._begin) / max(done, 1)
        return now - self._last >= max(SECONDS, whole / LINES)


def duration(seconds: float) -> str:
    """A time as people say it: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
