"""Measure how large the page of many runs is, and how long it takes to write, to open, to filter and to sort.

Makes folders of runs with invented texts in a temporary folder, writes their page, and opens it in headless Chromium.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from browser import Browser  # noqa: E402

from encdec_lightning.cli.report import main as report  # noqa: E402
from encdec_lightning.evaluation.registry import score_all  # noqa: E402
from encdec_lightning.records import Prediction  # noqa: E402
from encdec_lightning.reporting.results import flatten  # noqa: E402
from encdec_lightning.run import Run  # noqa: E402

KEYSTROKE = """(text => {
  const field = document.getElementById("query");
  const started = performance.now();
  field.value = text;
  field.dispatchEvent(new InputEvent("input", {bubbles: true}));
  document.body.offsetHeight;
  return performance.now() - started;
})"""
"""A change of the search field, until the list of cards is laid out."""
FRAME = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"


def vocabulary(count: int) -> tuple[list[str], list[float]]:
    """Invented words of usual lengths, and sums of how often they occur, by Zipf's law."""
    draw = random.Random(0)
    words = [
        "".join(draw.choices("etaoinshrdlucmfwypvbgk", k=draw.choice((2, 3, 4, 5, 6, 8, 10)))) for _ in range(count)
    ]
    return words, [*itertools.accumulate(1 / (rank + 2) for rank in range(count))]


def make_runs(folder: Path, runs: int, examples: int, words: int, source_words: int) -> None:
    """Runs of two weights and several seeds, each wrong in its own words, with logs of 200 lines."""
    draw, (known, often) = random.Random(1), vocabulary(20_000)
    texts = [
        (draw.choices(known, cum_weights=often, k=source_words), draw.choices(known, cum_weights=often, k=words))
        for _ in range(examples)
    ]
    for number in range(runs):
        own = random.Random(number)
        wrong = own.uniform(0.1, 0.5)
        config = {
            "name": "measure",
            "seed": number // 4,
            "model": {"weights": ("tied", "untied")[number % 2], "dropout": (0.0, 0.1)[number // 2 % 2]},
            "task": {"test": "test.jsonl", "metrics": ["rouge"]},
        }
        run = Run.create(folder / f"run-{number:03}", config, f"{number}")
        run.set_state("finished")
        predictions = [
            Prediction(
                f"{place}",
                " ".join(source),
                " ".join(target),
                " ".join(own.choices(known, cum_weights=often)[0] if own.random() < wrong else word for word in target),
            )
            for place, (source, target) in enumerate(texts)
        ]
        run.write_predictions(predictions)
        scores, _ = score_all(predictions[:200], ["rouge"])
        told = {"test/examples": examples, "data/test_fingerprint": "measured", "parameters": 10_000_000 + number % 2}
        run.write_metrics({**flatten("test", scores), **told, "train/seconds": 100.0 + number})
        lines = ["step,train/loss,train/seconds,train/tokens,train/target_tokens,val/loss"]
        for step in range(1, 201):
            loss = 3 + 4 / step + own.uniform(-0.1, 0.1)
            lines.append(f"{step * 10},{loss},{step * 2.5},{step * 4000},{step * 900},{loss if step % 20 == 0 else ''}")
        log = run.logs / "csv" / "version_0" / "metrics.csv"
        log.parent.mkdir(parents=True)
        log.write_text("\n".join(lines) + "\n")


def measure(folder: Path, page: Path, repeats: int) -> dict[str, float]:
    """Sizes in MB, times in ms but for the writing, in seconds; medians over fresh loads of the page."""
    started, worked = time.perf_counter(), time.process_time()
    assert report([str(folder), "--html", str(page)]) == 0
    found = {"seconds to write": time.perf_counter() - started, "of the processor": time.process_time() - worked}
    found["MB"] = page.stat().st_size / 1e6
    opened: dict[str, list[float]] = {
        "ms until usable": [],
        "ms until drawn": [],
        "ms of a keystroke": [],
        "ms of a sort": [],
    }
    browser = Browser()
    try:
        for _ in range(repeats):
            browser.open(page, ready="document.documentElement.dataset.drawn")
            for name in ("usable", "drawn"):
                opened[f"ms until {name}"].append(float(browser.run(f"document.documentElement.dataset.{name}")))
            browser.run("document.getElementById('filters').scrollIntoView()")
            browser.run(FRAME)
            for text in ("t", "th", "the", "ther", "the", "zzzz", ""):
                opened["ms of a keystroke"].append(browser.run(f"{KEYSTROKE}({json.dumps(text)})"))
                browser.run(FRAME)
            sort = KEYSTROKE.replace("query", "sort").replace("InputEvent", "Event")
            opened["ms of a sort"].append(browser.run(f"{sort}('spread')"))
            browser.run(f"{sort}('file')")
        found["slowest keystroke"] = max(opened["ms of a keystroke"])
        found["cards in the page"] = browser.run("document.querySelectorAll('.card').length")
        assert browser.problems == []
    finally:
        browser.close()
    return found | {name: statistics.median(values) for name, values in opened.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--words", type=int, default=50, help="of a reference and a prediction")
    parser.add_argument("--source-words", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5, help="loads of the page")
    parser.add_argument("--page", type=Path, help="keep the page there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_runs(folder / "runs", given.runs, given.examples, given.words, given.source_words)
        found = measure(folder / "runs", given.page or folder / "page.html", given.repeats)
    for what, value in found.items():
        print(f"{what}: {value:,.2f}")


if __name__ == "__main__":
    main()
