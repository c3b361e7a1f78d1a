"""Many runs in one table: what each is, how far it is, what it has scored. Read from the runs' folders alone."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path, PurePath
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from encdec_lightning.advice import goes_on
from encdec_lightning.errors import UserError
from encdec_lightning.files import kind_of
from encdec_lightning.owner import OWNER
from encdec_lightning.run import Run

SILENT = 120.0
"""Seconds without a sign of life after which a running run is called silent: nobody may be at work on it any more."""
SAME = (
    *("name", "folder", "logger", "export", "checkpoint_minutes", "data.cache", "data.workers"),
    *("trainer.enable_", "trainer.log_"),
)
"""Options in which runs may differ without being other models."""
MOST_DETAIL = 20
"""Parts of a path that are shown at most; from so many on all of it is."""
STYLES = {"finished": "green", "failed": "red", "silent": "red", "preempted": "yellow", "pruned": "cyan"}


@dataclass(frozen=True)
class Overview:
    """What the folder of a run tells."""

    run: Run
    options: Mapping[str, Any]
    """Every option by its dotted path."""
    state: str
    """`waiting`, `running`, `silent`, `preempted`, `pruned`, `failed` or `finished`."""
    progress: Mapping[str, Any]
    """What `progress.json` says; empty before the first step."""
    scores: Mapping[str, float]
    """Of the test, else of the last validation."""
    error: str | None
    """Why it failed, or cannot be read."""
    tested: bool = False
    """Whether the scores are the test's."""


def find_runs(folder: Path) -> list[Run]:
    """The runs in a folder and in the folders below it; raises `UserError` where there is none."""
    if kind_of(folder) != "folder":
        raise UserError("folder", str(folder), "there is no such folder")
    found = [Run(file.parent) for file in sorted(folder.rglob("config.yaml")) if (file.parent / "status.json").exists()]
    if not found:
        raise UserError("folder", str(folder), "there is no run in it")
    return found


def overview(run: Run, now: float | None = None) -> Overview:
    """What a run's folder tells at this moment; what cannot be read is told as its error."""
    error: str | None = None
    config: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    try:
        config = run.config()
        metrics = run.metrics()
    except UserError as problem:
        error = str(problem)
    status, told = run.status(), progress(run)
    state = str(status.get("state", "waiting"))
    seen = _last_sign(run, told)
    if state == "running" and seen is not None and (time.time() if now is None else now) - seen > SILENT:
        state = "silent"
    tested = [key for key in metrics if key.startswith("test/") and f"{key}/low" in metrics]
    scores = {key.removeprefix("test/"): metrics[key] for key in tested if isinstance(metrics[key], int | float)}
    tested_scores = bool(scores)
    if not scores:
        scores = {name: value for name, value in told.get("scores", {}).items() if "second" not in name}
    return Overview(run, dict(_flat(config)), state, told, scores, error or status.get("error"), tested_scores)


def differing(overviews: Sequence[Overview]) -> list[str]:
    """The options in which the runs differ, by their dotted paths, in the order of the config.

    An option that not all runs have counts where those that have it differ. Of options that the same runs have alone,
    such as those that were scored without a training here, the model's first one tells these apart from the others.
    """
    names = [name for name in dict.fromkeys(name for each in overviews for name in each.options) if not _same(name)]
    having = {name: tuple(name in each.options for each in overviews) for name in names}
    found = set()
    for name in names:
        values = {json.dumps(each.options[name], default=str) for each in overviews if name in each.options}
        if len(values) > 1:
            found.add(name)
    for pattern in dict.fromkeys(
        having[name] for name in sorted(names, key=lambda name: not name.startswith("model."))
    ):
        alike = [name for name in names if having[name] == pattern]
        if not all(pattern) and not found & set(alike):
            found.add(next((name for name in alike if name.startswith("model.")), alike[0]))
    return [name for name in names if name in found]


def _same(name: str) -> bool:
    return name.startswith(SAME)


def overview_table(overviews: Sequence[Overview], now: float | None = None) -> Table:
    """A row for each run: what sets it apart, its state, step, scores, where it runs, and the time that is left."""
    now = time.time() if now is None else now
    options = differing(overviews)
    scores = list(dict.fromkeys(name for each in overviews for name in each.scores))
    states = [each.state for each in overviews]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    table = Table(
        title=f"{len(overviews)} runs: {counts}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("run", no_wrap=True, min_width=max(len(each.run.folder.name) for each in overviews))
    for name, least in (("state", 9), ("step", 8), ("left", 6)):
        table.add_column(name, overflow="fold", min_width=least)
    for name in short_names(options):
        table.add_column(name, overflow="fold", min_width=min(8, len(name)))
    for name in scores:
        table.add_column(name, justify="right", no_wrap=True, min_width=5)
    table.add_column("where", overflow="fold", min_width=6)
    cells = zip(*(option_texts(overviews, name) for name in options), strict=True) if options else repeat(())
    for each, values in zip(overviews, cells, strict=False):
        style = STYLES.get(each.state)
        table.add_row(
            escape(each.run.folder.name),
            f"[{style}]{_state(each, now)}[/]" if style else _state(each, now),
            _steps(each),
            _left(each),
            *map(escape, values),
            *(f"{each.scores[name]:.2f}" if name in each.scores else "-" for name in scores),
            _where(each),
        )
    return table


def remarks(overviews: Iterable[Overview]) -> list[str]:
    """A line on each run that needs somebody's hand."""
    found = []
    for each in overviews:
        if each.error is not None:
            found.append(f"{each.run.folder.name}: {each.error}")
        elif each.state == "silent":
            found.append(
                f"{each.run.folder.name} gives no sign of life; if its process is gone, {goes_on(each.run.folder)}"
            )
        elif each.state == "preempted":
            found.append(f"{each.run.folder.name} is preempted; {goes_on(each.run.folder)}")
    return found


def _last_sign(run: Run, told: Mapping[str, Any]) -> float | None:
    """When a run last took a step, or its process last said that it is at work; None where neither is known."""
    signs = [float(told["time"])] if isinstance(told.get("time"), int | float) else []
    with suppress(OSError):
        signs.append((run.folder / OWNER).stat().st_mtime)
    return max(signs, default=None)


def progress(run: Run) -> dict[str, Any]:
    """What a run's `progress.json` says; empty where there is none."""
    try:
        content = json.loads((run.folder / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("scores", {}), dict) else {}


def _flat(values: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def short_names(options: Sequence[str]) -> list[str]:
    """The last part of each path, or all of it where two would be alike."""
    last = [name.rpartition(".")[2] for name in options]
    return [short if last.count(short) == 1 else name for short, name in zip(last, options, strict=True)]


def option_texts(overviews: Sequence[Overview], name: str) -> list[str]:
    """The cells of an option, one for each run; values that differ have texts that differ, as short as can be."""
    values = {option_key(each, name): each.options[name] for each in overviews if name in each.options}
    texts = {key: option_text(value) for key, value in values.items()}
    for detail in range(2, MOST_DETAIL + 1):
        times = Counter(texts.values())
        texts |= {key: option_text(values[key], detail) for key, text in texts.items() if times[text] > 1}
    return [texts.get(option_key(each, name), "-") for each in overviews]


def option_key(each: Overview, name: str) -> str:
    """A text that runs share which have the same value of an option, or both none."""
    return json.dumps(each.options[name], sort_keys=True, default=str) if name in each.options else ""


def option_text(value: Any, detail: int = 1) -> str:
    """An option's value on one line: of a path the last `detail` parts, of a number four digits, or all from 2 on."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, Mapping):
        return " ".join(f"{name}={option_text(each, detail)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(option_text(each, detail) for each in value)
    text = f"{value:.4g}" if isinstance(value, float) and detail == 1 else " ".join(str(value).split())
    is_path = text.startswith("/") or ("/" in text and " " not in text)
    return str(PurePath(*PurePath(text).parts[-detail:])) if is_path and detail < MOST_DETAIL else text


def _state(each: Overview, now: float) -> str:
    doing = each.progress.get("doing")
    if each.state == "running" and doing:
        return str(doing)
    if each.state == "silent":
        return f"silent for {_time(now - (_last_sign(each.run, each.progress) or now))}"
    return each.state


def _steps(each: Overview) -> str:
    step, steps = each.progress.get("step"), each.progress.get("steps")
    if not isinstance(step, int):
        return "-"
    return f"{step:,} of {steps:,}" if isinstance(steps, int) else f"{step:,}"


def _where(each: Overview) -> str:
    if each.state not in ("running", "silent"):
        return "-"
    job = each.progress.get("job")
    return f"{each.progress.get('host', '-')}{f', job {job}' if job else ''}"


def _left(each: Overview) -> str:
    left = each.progress.get("seconds_left")
    return _time(left) if each.state == "running" and isinstance(left, int | float) else "-"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
