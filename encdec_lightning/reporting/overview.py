"""What the folders of many runs tell: their options, how far they are, what they have scored."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from encdec_lightning.errors import UserError
from encdec_lightning.files import kind_of
from encdec_lightning.owner import OWNER
from encdec_lightning.run import EVALUATIONS, Run

SILENT = 120.0
"""Seconds without a sign of life after which a running run is called silent: nobody may be at work on it any more."""
SAME = (
    *("name", "folder", "logger", "export", "checkpoint_minutes", "data.cache", "data.workers"),
    *("trainer.enable_", "trainer.log_"),
)
"""Options in which runs may differ without being other models."""
MOST_DETAIL = 20
"""Parts of a path that are shown at most; from so many on all of it is."""


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
    test_set: str | None = None
    """The fingerprint of its test set, once it was tested."""


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
    seen = last_sign(run, told)
    if state == "running" and seen is not None and (time.time() if now is None else now) - seen > SILENT:
        state = "silent"
    tested = [key for key in metrics if key.startswith("test/") and f"{key}/low" in metrics]
    scores = {key.removeprefix("test/"): metrics[key] for key in tested if isinstance(metrics[key], int | float)}
    tested_scores = bool(scores)
    if not scores:
        scores = {name: value for name, value in told.get("scores", {}).items() if "second" not in name}
    test_set = metrics.get("data/test_fingerprint")
    error = error or status.get("error")
    return Overview(run, dict(_flat(config)), state, told, scores, error, tested_scores, test_set)


def run_names(overviews: Sequence[Overview]) -> list[str]:
    """What each run is called in a table: its folder's name, with as many folders above as tell it from the others.

    An evaluation, which lies in the folder `evaluations` of its run, has that run's name before its own.
    """
    paths = [each.run.folder.absolute().parts for each in overviews]
    kept = [
        (*parts[:-2], parts[-1]) if len(parts) > 2 and parts[-2] == EVALUATIONS else parts for parts in paths
    ]  # fmt: skip
    counts = [2 if parts != own else 1 for parts, own in zip(paths, kept, strict=True)]
    for more in range(1, max((len(parts) for parts in kept), default=1)):
        texts = ["/".join(parts[-count:]) for parts, count in zip(kept, counts, strict=True)]
        times = Counter(texts)
        if max(times.values(), default=1) == 1:
            break
        counts = [max(count, more + 1) if times[text] > 1 else count for text, count in zip(texts, counts, strict=True)]
    return ["/".join(parts[-count:]) for parts, count in zip(kept, counts, strict=True)]


def each_once(overviews: Sequence[Overview]) -> tuple[list[Overview], str | None]:
    """The runs without those that are another one again, and a sentence on these; the furthest of each stays.

    Equal runs are copies, or points that two sweeps of different names have in common.
    """
    best: dict[str, Overview] = {}
    for each in overviews:
        known = {name: value for name, value in each.options.items() if not _same(name)}
        same = json.dumps([each.run.identity(), each.test_set, known], sort_keys=True, default=str)
        key = same if each.options and each.run.identity() else str(each.run.folder)
        if key not in best or _how_far(each) > _how_far(best[key]):
            best[key] = each
    chosen = {id(each) for each in best.values()}
    again = [each for each in overviews if id(each) not in chosen]
    told = "1 folder holds a run" if len(again) == 1 else f"{len(again)} folders hold runs"
    said = f"{told} that another one holds too, such as {again[0].run.folder}: each run counts once." if again else None
    return [each for each in overviews if id(each) in chosen], said


def _how_far(each: Overview) -> tuple[bool, bool]:
    return each.tested, each.state == "finished"


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


def last_sign(run: Run, told: Mapping[str, Any]) -> float | None:
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
