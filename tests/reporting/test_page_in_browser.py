"""The page in headless Chromium: it opens without errors, sorts, searches, filters; in both colours, wide and narrow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import log, made

from encdec_lightning.cli.report import main
from encdec_lightning.evaluation.rouge import Rouge
from encdec_lightning.evaluation.subsequence import common_length
from encdec_lightning.records import Prediction
from encdec_lightning.reporting.page import page as page_module
from encdec_lightning.run import Run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

EVIL = "</script><img src=x onerror=\"document.title='owned'\"> a zebra"
READY = "document.documentElement.dataset.drawn"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
CONTRAST = (Path(__file__).with_name("contrast.js")).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = Browser()
    yield found
    found.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two systems, one example with markup, one run that failed, one that has begun."""
    folder = tmp_path_factory.mktemp("runs")
    for weights, error in (("tied", 0.1), ("untied", 0.4)):
        for seed in (1, 2):
            run = made(folder / f"{weights}{seed}", weights, seed, error)
            evil = Prediction("evil", EVIL + " long source " * 60, "a zebra", EVIL, ("another",))
            run.write_predictions([*run.predictions(), evil])
            run.write_metrics({**run.metrics(), "baseline/lead_sentence/rouge1": 40.0 + seed})
            log(run, "train/loss,val/loss,train/seconds", "0,4,5.5,,10", "0,9,4.5,,20", "0,9,,4.75,")
    made(folder / "broken", "tied_embeddings", 1, None, "failed")
    late = made(folder / "late", "tied_embeddings", 2, None, "running")
    log(late, "train/loss", "0,4,6.5")
    return folder


@pytest.fixture(scope="module")
def page(runs: Path) -> Path:
    file = runs / "page.html"
    assert main([str(runs), "--html", str(file), "--against", "untied"]) == 0
    return file


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.open(page, ready=READY)
    return browser


def change(browser: Browser, field: str, value: Any, event: str = "input") -> None:
    """What a person does to a field of the form."""
    name = "checked" if isinstance(value, bool) else "value"
    browser.run(f"""(() => {{ const field = document.getElementById('{field}'); field.{name} = {json.dumps(value)};
        field.dispatchEvent(new Event('{event}', {{bubbles: true}})); }})()""")


def ids(browser: Browser) -> list[str]:
    """The ids of the cards in the page, from the first."""
    return browser.run("[...document.querySelectorAll('.card h3 small')].map(each => each.textContent)")


def column(browser: Browser, table: str, place: int) -> list[str]:
    return browser.run(
        f"[...document.getElementById('{table}').tBodies[0].rows].map(row => row.cells[{place}].textContent)"
    )


def count(browser: Browser) -> str:
    return browser.run("document.getElementById('count').textContent")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_opens_without_errors_fits_and_can_be_read(browser: Browser, page: Path, size: str, dark: bool) -> None:
    browser.open(page, *SIZES[size], dark, ready=READY)
    assert browser.problems == []
    assert [each for each in browser.requests if not each.startswith("data:")] == [page.as_uri()]
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("innerWidth") == SIZES[size][0]
    light = [int(part) for part in browser.run("getComputedStyle(document.body).backgroundColor")[4:-1].split(",")]
    assert (sum(light) < 200) == dark
    assert browser.run("document.querySelectorAll('#curves .plot svg .scatterlayer .trace').length") == 4
    assert browser.run("document.querySelectorAll('#sizes .plot svg .scatterlayer .trace').length") == 5
    browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
    assert browser.run(CONTRAST) == []


def test_text_from_data_stays_text(opened: Browser) -> None:
    change(opened, "query", "zebra")
    assert count(opened) == "1 of 61 examples" and ids(opened) == ["evil"]
    assert opened.run("document.images.length") == 0 and opened.run("document.title").startswith("Report of 6 runs")
    shown = opened.run("document.querySelector('.prediction p').textContent")
    assert "<img src=x onerror=" in shown
    assert opened.run("[...CSS.highlights.get('search')].length") >= 5
    assert opened.problems == []


def test_search_and_filters(opened: Browser, runs: Path) -> None:
    own = {name: {each.id: each for each in Run(runs / name).predictions()} for name in ("tied1", "untied1")}
    change(opened, "query", "HOUSE red")
    found = [key for key, one in own["tied1"].items() if "house red" in f"{one.source}\n{one.reference}".lower()]
    change(opened, "where", "source")
    assert count(opened) == f"{len(found)} of 61 examples" and ids(opened)[0] == found[0]
    change(opened, "missing", False)
    assert opened.run("document.querySelector('.prediction p').textContent") == own["tied1"][found[0]].prediction
    opened.run("document.querySelector('#filters [type=reset]').click()")
    opened.wait("document.getElementById('count').textContent === '61 of 61 examples'")

    metric = Rouge(types=("rougeL",))
    scores = {key: round(100 * float(metric.statistics(one)[0]), 1) for key, one in own["untied1"].items()}
    labels = opened.run("[...document.querySelectorAll('#shown-runs label')].map(each => each.textContent.trim())")
    place = labels.index("weights=untied, seed=1")
    change(opened, "whose", str(place))
    change(opened, "most", 50)
    assert count(opened) == f"{sum(score <= 50 for score in scores.values())} of 61 examples"
    change(opened, "most", "")  # an empty field bounds nothing
    assert count(opened) == "61 of 61 examples"

    opened.run("document.getElementById('no-runs').click()")
    assert opened.run("document.querySelectorAll('.card .prediction').length") == 0
    opened.run(f"document.querySelectorAll('#shown-runs input')[{place}].click()")
    assert opened.run("document.querySelector('.card .prediction h4').firstChild.data") == "weights=untied, seed=1"
    change(opened, "exact", "every")
    exact = sum(one.prediction in one.references for one in own["untied1"].values())
    assert count(opened) == f"{exact} of 61 examples"
    change(opened, "exact", "")
    change(opened, "sort", "low")
    assert ids(opened)[0] == min(scores, key=lambda key: scores[key])
    opened.run(f"document.querySelectorAll('#shown-runs input')[{labels.index('weights=tied, seed=1')}].click()")
    change(opened, "differ", True)
    other = sum(one.prediction != own["untied1"][key].prediction for key, one in own["tied1"].items())
    assert 0 < other < 61 and count(opened) == f"{other} of 61 examples"


def test_tables_are_sorted_by_click_and_key(opened: Browser) -> None:
    titles = opened.run("[...document.querySelectorAll('#scores-0 thead th')].map(each => each.textContent)")
    place = titles.index("rouge1")
    head = f"document.querySelectorAll('#scores-0 thead th')[{place}]"
    opened.run(f"{head}.querySelector('button').click()")
    falling = column(opened, "scores-0", place)
    numbers = [float(text.split()[0].rstrip("*")) for text in falling if text != "-"]
    assert numbers == sorted(numbers, reverse=True) and len(numbers) == 3 and falling[-1] == "-"
    assert opened.run(f"{head}.getAttribute('aria-sort')") == "descending"
    opened.run(f"{head}.querySelector('button').focus()")
    opened.key("Enter")
    assert opened.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    rising = column(opened, "scores-0", place)
    assert rising[:3] == falling[:3][::-1] and rising[-1] == "-"
    opened.key("Tab")  # the next title has a focus that can be seen
    assert opened.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    opened.run("document.querySelector('#runs-table thead button').click()")
    assert column(opened, "runs-table", 0) == ["broken", "late", "tied1", "tied2", "untied1", "untied2"]
    assert column(opened, "runs-table", 1)[:2] == ["failed", "running"]


def test_plots_have_axes_states_and_numbers(opened: Browser) -> None:
    options = "[...document.getElementById('curves-x').options].map(each => each.textContent)"
    assert opened.run(options) == ["optimizer steps", "seconds of training"]
    change(opened, "curves-x", "train/seconds", "change")
    note = opened.run("document.querySelector('#curves .note').textContent")
    assert "No log tells the target tokens." in note
    assert "weights=tied_embeddings, seed=1; weights=tied_embeddings, seed=2" in note  # not drawn, and it says so
    rows = opened.run(
        "[...document.querySelectorAll('#curves tbody tr')].map(row => [...row.cells].map(each => each.textContent))"
    )
    assert rows[0] == ["weights=tied, seed=1", "1", "4.75", "20", "4.75", "20", "4.75", "20"]
    sizes = opened.run("[...document.querySelectorAll('#sizes tbody th')].map(each => each.textContent)")
    assert "weights=tied, mean of 2 seeds" in sizes and "lead sentence" in sizes
    change(opened, "scheme", "dark", "change")
    assert opened.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    assert opened.run("document.querySelector('#curves .plot').layout.font.color") == "rgb(230, 232, 235)"


def test_everything_has_a_name_and_the_page_has_landmarks(opened: Browser) -> None:
    nodes = [each for each in opened.send("Accessibility.getFullAXTree")["nodes"] if not each.get("ignored")]
    roles: dict[str, list[str]] = {}
    for each in nodes:
        roles.setdefault(each["role"]["value"], []).append(each.get("name", {}).get("value", ""))
    assert {"banner", "main", "navigation", "search", "feed", "article", "table"} <= {*roles}
    named = (
        "button",
        "link",
        "combobox",
        "checkbox",
        "searchbox",
        "spinbutton",
        "table",
        "region",
        "image",
        "feed",
        "article",
    )
    assert [role for role in named if not all(name.strip() for name in roles.get(role, ["none"]))] == []
    assert any(name.startswith("Learning curves of 4 runs: val/loss") for name in roles["image"])
    assert any(name.startswith("Test scores on data/test.jsonl, 60 examples") for name in roles["table"])


BOXES = """boxes = () => [...document.querySelectorAll('.card')].map(each => each.getBoundingClientRect()).sort(
    (one, two) => one.top - two.top); true"""


def test_of_many_examples_only_those_in_sight_are_in_the_page(browser: Browser, tmp_path: Path) -> None:
    run = made(tmp_path / "many", "tied", 1, 0.3)
    texts = [Prediction(f"{place}", f"source {place}", "a cat sat " * (place % 30 + 1), "a dog sat " * (place % 40 + 1))
             for place in range(1500)]  # fmt: skip
    run.write_predictions(texts)
    assert main([str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    browser.open(tmp_path / "page.html", ready=READY)
    browser.run("document.getElementById('list').focus()")
    browser.key("PageDown")
    browser.key("PageDown")
    assert browser.run("document.activeElement.querySelector('small').textContent") == "1"
    assert browser.run("document.activeElement.getAttribute('aria-posinset')") == "2"
    browser.key("End")
    assert browser.run("document.activeElement.querySelector('small').textContent") == "1499"
    browser.wait(
        """(({top, bottom}) => top < innerHeight && bottom > 0)(document.activeElement.getBoundingClientRect())"""
    )
    browser.run("scrollBy(0, -30000)")
    browser.run(BOXES)
    browser.wait("boxes().length > 1 && boxes().length < 40")
    browser.wait("boxes().every((each, place) => !place || boxes()[place - 1].bottom <= each.top)")  # none on another
    browser.wait("boxes()[0].top < 0 && boxes().at(-2).bottom > 0")
    assert browser.problems == []


WORDS = st.lists(st.sampled_from(["a", "The", "cat", "猫", "ไ", ",", "don't", "x_y", "é"]), max_size=12)


@given(WORDS, WORDS)
@settings(max_examples=60)
def test_marked_words_are_what_the_longest_common_subsequence_leaves(
    browser: Browser, one: list[str], two: list[str]
) -> None:
    source = (Path(page_module.__file__).parent / "differences.js").read_text(encoding="utf-8")
    texts = json.dumps([" ".join(one), " ".join(two)])
    pieces = browser.run(f"{{ {source}; nearestDifference([wordsOf({texts}[0], true)], {texts}[1], true) }}")
    kept = {
        kind: [word for each, text in pieces for word in text.split() if each == kind]
        for kind in ("same", "extra", "missing")
    }
    assert "".join(text for kind, text in pieces if kind != "missing") == " ".join(two)
    assert len(kept["same"]) == common_length(one, two)
    assert sorted(kept["same"] + kept["extra"]) == sorted(two) and sorted(kept["same"] + kept["missing"]) == sorted(one)
    assert [word for kind, text in pieces if kind != "extra" for word in text.split()] == one
