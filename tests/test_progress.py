"""A bar in a terminal, whole lines in a log file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from encdec_lightning import progress
from encdec_lightning.progress import Progress, duration


def written(terminal: bool, width: int = 80, encoding: str = "utf-8") -> tuple[Console, io.BytesIO]:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict", write_through=True)
    return Console(file=stream, force_terminal=terminal, width=width, highlight=False), raw


def test_a_log_file_gets_whole_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    console, raw = written(terminal=False)
    with Progress("training", 1000, "steps", begin=100, console=console) as bar:
        for step in range(101, 1001):
            clock[0] += 2.0
            bar.update(step, "loss 1.500")
        bar.say("step 1,000: val/loss 1.200")
    text = raw.getvalue().decode()
    assert "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "training: 105 of 1,000 steps, loss 1.500, 30 min left"
    assert lines[1] == "training: 120 of 1,000 steps, loss 1.500, 29 min left"
    assert lines[-1] == "step 1,000: val/loss 1.200"
    assert 50 <= len(lines) <= 102


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    console, raw = written(terminal=True)
    with Progress("training", 4, "steps", console=console) as bar:
        bar.update(3, "loss 1.5")
        bar.stop()  # another bar's turn
        bar.start()
        bar.say("step 3: val/loss 1.2")
    text = raw.getvalue().decode()
    assert "3 of 4 steps, loss 1.5" in text and "step 3: val/loss 1.2" in text
    assert text.endswith("\x1b[2K")  # the bar's line is cleared


@pytest.mark.parametrize("terminal", [True, False])
def test_ascii_is_enough(terminal: bool) -> None:
    console, raw = written(terminal, encoding="ascii")
    with Progress("tokenizing", None if terminal else 2, "pairs", console=console) as bar:
        bar.advance(1)
    with Progress("tokenizing", 2, "pairs", console=console) as bar:
        bar.advance(2)
        bar.say("done")
    assert b"done" in raw.getvalue()


def test_hidden_is_silent() -> None:
    console, raw = written(terminal=True)
    with Progress("training", 4, "steps", console=console, hidden=True) as bar:
        bar.advance(4)
        bar.say("done")
    assert bar.done == 4 and raw.getvalue() == b""


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.4, "3 s"), (99, "99 s"), (100, "2 min"), (3599, "1 h 0 min"), (12000, "3 h 20 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
