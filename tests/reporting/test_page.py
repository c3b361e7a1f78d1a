"""`encdec-report --html`: the page says what the report says, holds what the folders hold, and reads no text as HTML."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reports import log, made, predictions

from encdec_lightning.cli.report import main
from encdec_lightning.evaluation.rouge import Rouge
from encdec_lightning.records import Prediction
from encdec_lightning.reporting.overview import option_text
from encdec_lightning.reporting.page import page as page_module
from encdec_lightning.reporting.page.page import SCRIPTS, page
from encdec_lightning.reporting.page.plots import MOST
from encdec_lightning.reporting.report.folders import read_report
from encdec_lightning.reporting.report.formats import table

EVIL = "</script><img src=x onerror=alert(1)><!-- & \"' ${title}"


class Reader(HTMLParser):
    """The tables of a page as texts, its scripts, and every element's name and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.scripts: dict[str, str] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._rows: list[list[str]] = []
        self._script = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        self._script = str(found.get("id", "own")) if tag == "script" else ""
        if tag == "table":
            self._rows = self.tables.setdefault(str(found["id"]), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._rows = []

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif self._rows and self._rows[-1]:
            self._rows[-1][-1] += data.strip("\n")

    def data(self, number: int = 0) -> dict:
        return json.loads(gzip.decompress(base64.b64decode(self.scripts[f"data-{number}"])))


def read(*folders: Path, most: int = 5000, against: str | None = None) -> Reader:
    return Reader(page(*read_report([*folders], against), most))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two seeds of a good and of a bad system with logs, one run that failed, one that has begun."""
    for seed in (1, 2):
        good = made(tmp_path / f"good{seed}", "tied", seed, 0.1)
        made(tmp_path / f"bad{seed}", "untied", seed, 0.4)
        log(good, "train/loss,val/loss,train/seconds", "0,4,5.5,,10", "0,9,4.5,,20", "0,9,,4.75,", "1,10,test,,")
    made(tmp_path / "broken", "tied_embeddings", 1, None, "failed")
    made(tmp_path / "late", "tied_embeddings", 2, None, "running")
    return tmp_path


def test_the_tables_are_those_of_the_terminal(runs):
    (section,), _ = read_report([runs], "untied")
    header, rows = table(section)
    found = read(runs, against="untied").tables["scores-0"]
    assert found[0] == header
    told = [[each.text + (" (best)" if each.best else "") + each.mark for each in row] for row in rows]
    assert found[1:] == told
    assert any("***" in cell for row in told for cell in row)


def test_runs_that_failed_or_have_not_ended_are_rows_with_their_state(runs):
    (runs / "bad1" / "metrics.json").write_text("{")
    found = read(runs)
    states = {row[0]: row[1] for row in found.tables["runs-table"][1:]}
    assert states == {"bad1": "finished", "bad2": "finished", "good1": "finished", "good2": "finished",
                      "broken": "failed", "late": "running"}  # fmt: skip
    why = {row[0]: row[3] for row in found.tables["runs-table"][1:]}
    assert why["broken"] == "it broke" and "metrics.json" in why["bad1"]
    data = found.data()
    assert {"label": "weights=tied_embeddings, seed=1", "row": 1, "state": "failed"} in data["runs"]
    assert any("seed=2 is running and has no predictions here." in note for note in data["notes"])


def test_examples_are_matched_by_id_and_scored(runs):
    data = read(runs).data()
    labels = [each["label"] for each in data["runs"]]
    assert labels[0] == "weights=tied, seed=1" and labels[-1] == "weights=untied, seed=2"
    own = predictions(0.1, 1)
    key, source, references, texts, scores = data["examples"][7]
    assert (key, source, references, texts[0]) == (own[7].id, own[7].source, [own[7].reference], own[7].prediction)
    assert texts[2:4] == scores[2:4] == [None, None]  # the runs that have no predictions
    metric = Rouge(types=("rougeL",))
    assert scores[0] == round(100 * float(metric.statistics(own[7])[0]), 1)
    assert len(data["examples"]) == 60 and data["signature"] == metric.signature


def test_what_does_not_fit_together_is_said(runs):
    other = predictions(0.1, 1)
    other[0] = Prediction("0", "s", "another reference", "p")
    run = made(runs / "third", "tied", 3, 0.1)
    run.write_predictions([*other[:50], other[0]])
    data = read(runs).data()
    told = " ".join(data["notes"])
    assert "seed=3 has other references for 1 examples" in told
    assert "seed=3 has no prediction for 10 examples" in told
    assert "seed=3 has 1 predictions that are no texts, or whose id occurs twice" in told


def test_that_a_script_is_unknown_to_the_score_is_said(tmp_path):
    run = made(tmp_path / "one", "tied", 1, 0.1)
    run.write_predictions([Prediction("0", "a", "猫", "猫"), Prediction("1", "a", "cat", "cat", ("猫",))])
    data = read(tmp_path).data()
    assert [each[4] for each in data["examples"]] == [[0.0], [100.0]]
    assert data["notes"] == ["ROUGE-L can compare nothing in 1 of the examples; they score 0."]


def test_a_part_of_many_examples_is_spread_evenly(runs):
    data = read(runs, most=20).data()
    assert [each[0] for each in data["examples"]] == [str(3 * place) for place in range(20)]
    assert any("20 of the 60 examples are in this page" in note for note in data["notes"])


def test_curves_come_from_the_logs(runs):
    plots = read(runs).data()["plots"]
    assert plots["logged"] == ["val/loss", "train/loss"]
    assert plots["curves"][0] == {"train/loss": [[4, 9], [5.5, 4.5]], "val/loss": [[9], [4.75]]}
    assert plots["of_axes"][0] == {"train/seconds": [[4, 9], [10.0, 20.0]]}
    assert plots["curves"][-1] == {} and plots["of_axes"][-1] == {}
    assert [each["title"] for each in plots["axes"]] == ["seconds of training"]
    assert plots["axes_left_out"] == ["No log tells the target tokens.", "No log tells the source and target tokens."]


def test_scores_against_what_differs(runs):
    plots = read(runs).data()["plots"]
    assert [each["title"] for each in plots["sizes"]] == ["seconds"]
    assert plots["sizes"][0]["values"] == [11.0, 12.0, None, None, 11.0, 12.0]
    assert "The parameters of all runs are 1,234,567." in plots["sizes_left_out"]
    assert "No run tells its training pairs." in plots["sizes_left_out"]
    (section,), _ = read_report([runs])
    assert plots["rows"][0]["scores"]["rouge1"] == section.rows[0].scores["rouge1"].mean
    assert plots["points"]["rouge1"][0] == json.loads((runs / "good1" / "metrics.json").read_text())["test/rouge1"]


def test_long_curves_keep_their_last_point(tmp_path):
    run = made(tmp_path / "long", "tied", 1, None, "running")
    log(run, "train/loss", *(f"0,{step},{step / 7}" for step in range(2 * MOST + 2)), "0,5000,nan", "0,6000,inf", "0,7")
    steps, values = read(tmp_path).data()["plots"]["curves"][0]["train/loss"]
    assert len(steps) <= MOST + 1 and steps[-1] == 2 * MOST + 1 and values[-1] == float(f"{steps[-1] / 7:.6g}")


def test_no_text_becomes_html(tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        run = made(tmp_path / name, EVIL + name, seed, 0.3)
        file = run.write_predictions([Prediction("0", EVIL, EVIL, EVIL)])
        half = {"id": "<b>", "source": "a", "references": ["b"], "prediction": "half a pair: \ud800"}
        file.write_text(file.read_text(encoding="utf-8") + json.dumps(half) + "\n", encoding="utf-8")
        run.set_state("failed", EVIL)
    text = page(*read_report([tmp_path]), 5000)
    found = Reader(text)
    names = {tag for tag, _ in found.elements}
    assert "img" not in names and "<img" not in text and "b" not in names
    assert not [key for _, attributes in found.elements for key in attributes if key.startswith("on")]
    assert {*found.scripts} == {"data-0", "library", "own"}
    assert found.data()["examples"][0] == ["0", EVIL, [EVIL], [EVIL, EVIL], [100.0, 100.0]]
    assert found.data()["examples"][1][3][0] == "half a pair: ?"
    assert found.tables["runs-table"][1][3] == EVIL
    assert option_text(EVIL + "one") in found.tables["scores-0"][1]


def test_nothing_is_fetched_and_no_other_script_may_run(runs):
    text = page(*read_report([runs]), 5000)
    found = Reader(text)
    links = [value for _, attributes in found.elements for key, value in attributes.items() if key in ("src", "href")]
    assert all(str(value).startswith(("#", "data:")) for value in links)
    assert not re.search(r"url\(|@import|https?:", found.scripts["own"] + text.partition("</style>")[0])
    policy = next(each["content"] for tag, each in found.elements if tag == "meta" and "http-equiv" in each)
    assert str(policy).startswith("default-src 'none'; script-src 'sha256-") and "unsafe-eval" not in str(policy)
    assert str(policy).partition("style-src")[0].count("sha256-") == 2


def test_two_test_sets_are_two_tables_and_two_choices(runs, tmp_path_factory):
    other = made(tmp_path_factory.mktemp("other") / "elsewhere", "tied", 1, 0.2)
    other.write_metrics({**other.metrics(), "data/test_fingerprint": "another"})
    found = read(runs, other.folder)
    assert {*found.tables} == {"scores-0", "scores-1", "runs-table"}
    assert [len(found.data(number)["runs"]) for number in range(2)] == [6, 1]
    assert found.data(1)["runs"][0]["label"] == "elsewhere"


def test_the_command_writes_it(runs, capsys):
    file = runs / "page.html"
    assert main([str(runs), "--html", str(file), "--examples", "9"]) == 0
    assert f"html is written to {file}." in capsys.readouterr().err
    assert len(Reader(file.read_text(encoding="utf-8")).data()["examples"]) == 9


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--html", "page.html", "--examples", "0"], "--examples is 0: it must be 1 or more"),
        (["--html", "no/page.html"], "--html is 'no/page.html': there is no such folder to write it into"),
        (["--html", "page.html", "--examples", "x"], "see encdec-report --help"),
    ],
)
def test_mistakes_about_the_page(arguments, sentence, runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    assert main([".", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not (runs / "page.html").exists()


def test_without_plotly_one_sentence_says_what_to_install(runs, monkeypatch, capsys):
    monkeypatch.setattr(page_module.importlib.util, "find_spec", lambda name: None)
    assert main([str(runs), "--html", str(runs / "page.html")]) == 2
    told = capsys.readouterr()
    assert "pip install 'encdec_lightning[report]'" in told.err and told.out == ""


def test_files_of_the_page_are_short():
    folder = Path(page_module.__file__).parent
    files = {file.name: file for file in folder.iterdir() if file.suffix in (".js", ".css", ".html")}
    assert {*SCRIPTS} == {name for name in files if name.endswith(".js")}
    assert [name for name, file in files.items() if len(file.read_text(encoding="utf-8").splitlines()) >= 300] == []
    assert not any("</script" in files[name].read_text(encoding="utf-8") for name in SCRIPTS)
