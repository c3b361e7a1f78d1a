"""`encdec-evaluate predictions=...`: files from anywhere are read, scored and compared."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from dataclasses import replace
from pathlib import Path

import pytest

from encdec_lightning.cli.evaluate import main
from encdec_lightning.evaluation.metric import score
from encdec_lightning.evaluation.prediction_files import read_predictions
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.records import Prediction
from encdec_lightning.run import Run

FOUND = [
    Prediction("a", "the cat sat", "a cat sat", "a cat ran", ("the cat",)),
    Prediction("b", "a dog ran", "a dog", "the dog"),
    Prediction("c", "a mat", "mat", "mat"),
]


@pytest.fixture
def own(in_tmp: Path) -> Path:
    return Run("run").write_predictions(FOUND)


def test_what_a_run_has_written_is_read_back(own):
    assert read_predictions(own) == FOUND


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", "\n".join(json.dumps({"target": each.reference, "prediction": each.prediction}) for each in FOUND)),
        ("x.json", json.dumps([[each.reference, each.prediction] for each in FOUND])),
        ("x.json", json.dumps([{"summary": each.reference, "output": each.prediction} for each in FOUND])),
        ("x.txt", "".join(f"{each.prediction}\n" for each in FOUND)),
        ("x.hyp", "\ufeff" + "\r\n".join(each.prediction for each in FOUND)),
    ],
)
def test_files_from_elsewhere(name, content, in_tmp):
    Path(name).write_bytes(content.encode())
    Path("right").write_text("".join(f"{each.reference}\n" for each in FOUND))
    found = read_predictions(Path(name), [] if "js" in name else [Path("right")])
    assert [(each.id, each.reference, each.prediction) for each in found] == [
        (str(number), each.reference, each.prediction) for number, each in enumerate(FOUND, start=1)
    ]


def test_plain_text_with_several_references_and_sources(in_tmp):
    for name, text in {"own": "a\nb\n", "one": "1\n2\n", "two": "3\n4\n", "read": "x\ny\n"}.items():
        Path(name).write_text(text)
    found = read_predictions(Path("own"), [Path("one"), Path("two")], Path("read"))
    assert found == [Prediction("1", "x", "1", "a", ("3",)), Prediction("2", "y", "2", "b", ("4",))]


def test_files_in_the_layout_of_presumm(in_tmp, capsys):
    """A line a text, `<q>` between its sentences; the paper's ROUGE-L is that of whole summaries, rougeLsum."""
    Path("x.candidate").write_text("the cat sat on a mat<q>it rained\na dog ran\n")
    Path("x.gold").write_text("it rained all day<q>a cat sat on the mat\nthe dog ran<q>it barked\n")
    arguments = ["predictions=x.candidate", "references=x.gold"]
    types = "metrics=[{name: rouge, types: [rouge1, rouge2, rougeL, rougeLsum]}]"
    assert main([*arguments, types, "sentence_mark=<q>"]) == 0
    marked = capsys.readouterr().out
    lines = [("the cat sat on a mat\nit rained", "it rained all day\na cat sat on the mat"),
             ("a dog ran", "the dog ran\nit barked")]  # fmt: skip
    expected = [Prediction(str(number), "", right, own) for number, (own, right) in enumerate(lines, start=1)]
    assert read_predictions(Path("x.candidate"), [Path("x.gold")], sentence_mark="<q>") == expected
    values = score(expected, load_metric({"name": "rouge", "types": ["rougeLsum"]}))
    assert f"{values['rougeLsum'].value:.2f}" in marked or f"{values['rougeLsum'].value:.1f}" in marked
    assert main([*arguments, types]) == 0
    assert capsys.readouterr().out != marked
    assert main([*arguments, "sentence_mark= "]) == 2
    assert "sentence_mark is ' '" in capsys.readouterr().err
    assert main(["run=x", "sentence_mark=<q>"]) == 2
    assert "it acts with predictions= alone" in capsys.readouterr().err


def test_scores_and_differences_are_shown(own, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    (other := Run("other")).write_predictions([replace(each, prediction="nothing") for each in FOUND])
    assert (
        main(["predictions=run/predictions/test.jsonl,other/predictions/test.jsonl", "metrics=[rouge,exact_match]"])
        == 0
    )
    told = capsys.readouterr().out
    expected = score(FOUND, load_metric("rouge"))
    assert f"{expected['rouge1'].value:.2f}" in told and f"-{expected['rouge1'].value:.2f}" in told
    assert "how far it is above run/predictions/test.jsonl" in told and "exact|case:kept" in told
    assert other.folder.name in told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predictions=nowhere.jsonl"], "it cannot be read (No such file or directory)"),
        (["predictions=empty.jsonl"], "it holds no prediction"),
        (["predictions=texts"], "texts holds texts alone: give the file of their references too"),
        (["predictions=texts", "references=one"], "references is 'one': it has 1 lines, and texts has 2"),
        (
            ["predictions=texts", "references=texts", "metrics=sari"],
            "it compares with the sources, and texts has none: sources=",
        ),
        (["predictions=texts", "references=texts", "sources=one"], "sources is 'one': it has 1 lines"),
        (["predictions=bad.jsonl"], "predictions bad.jsonl line 2 is '{': it is no JSON"),
        (["predictions=other.jsonl"], "it has none of the fields prediction, predictions, hypothesis"),
        (["predictions=latin", "references=one"], "predictions is 'latin': it must be UTF-8"),
        (["predictions=own.jsonl,fewer.jsonl"], "both systems must have predicted the same examples"),
        (["predictions=table.csv", "references=one"], "predictions is 'table.csv': no table is read: make a .jsonl"),
        (["predictions=broken.jsonl.gz"], "predictions is 'broken.jsonl.gz': it cannot be read (it is broken off or"),
        (["predictions=own.jsonl", "references=one"], "own.jsonl has references of its own: leave it away"),
        (["predictions=own.jsonl", "run=run"], "run is 'run': it acts with run= alone"),
        (["predictions=own.jsonl", "metrics=blue"], "did you mean 'bleu'"),
        (["predictions=own.jsonl", "metrics=null"], "a metric is a name, or a mapping with it and arguments"),
        (["predictions=own.jsonl", "metrics=[[rouge]]"], "a metric is a name, or a mapping with it and arguments"),
        (
            ["run=run", "metrics=[rouge]"],
            "metrics is '[rouge]': it acts with predictions= alone, such as predictions=run/predictions/test.jsonl",
        ),
        (["run=run", "task.test=x"], "task.test is 'x': a run keeps its own task; encdec-evaluate predictions=<its"),
        ([], "the folder of a run must be given"),
    ],
)
def test_mistakes(arguments, sentence, own, capsys):
    record = {"id": "1", "reference": "a", "prediction": "b"}
    texts = {"empty.jsonl": "", "texts": "a\nb\n", "one": "a\n", "bad.jsonl": "{}\n{\n", "other.jsonl": '{"x": 1}\n',
             "own.jsonl": json.dumps(record) + "\n" + json.dumps({**record, "id": "2"}) + "\n",
             "fewer.jsonl": json.dumps(record) + "\n"}  # fmt: skip
    for name, text in texts.items():
        Path(name).write_text(text)
    Path("latin").write_bytes(b"caf\xe9\n")
    Path("broken.jsonl.gz").write_bytes(gzip.compress(texts["own.jsonl"].encode())[:-9])
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("ending", "packer"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)], ids=str)
def test_packed_files_are_unpacked(ending, packer, in_tmp):
    records = [{"id": "1", "reference": "a b", "prediction": "b"}]
    for name, text in (("own.jsonl", json.dumps(records[0])), ("own.json", json.dumps(records)), ("own.txt", "b\n")):
        Path(f"{name}{ending}").write_bytes(packer.compress(text.encode()))
    Path(f"right{ending}").write_bytes(packer.compress(b"a b\n"))
    for name in ("own.jsonl", "own.json", "own.txt"):
        given = [Path(f"right{ending}")] if name == "own.txt" else []
        (found,) = read_predictions(Path(f"{name}{ending}"), given)
        assert (found.prediction, found.reference) == ("b", "a b")


def test_a_comma_in_a_path_is_a_comma(in_tmp, capsys):
    (in_tmp / "p,q").mkdir()
    record = json.dumps({"id": "1", "reference": "a cat", "prediction": "a cat"}) + "\n"
    Path("p,q/x.jsonl").write_text(record)
    Path("y.jsonl").write_text(record)
    for given in ("p,q/x.jsonl", "'p,q/x.jsonl'", "y.jsonl,'p,q/x.jsonl'", 'y.jsonl,"p,q/x.jsonl"'):
        assert main([f"predictions={given}", "metrics=exact_match"]) == 0
        assert "x" in capsys.readouterr().out
    assert main(["predictions=y.jsonl,z.jsonl", "metrics=exact_match"]) == 2
    assert "z.jsonl" in capsys.readouterr().err


def test_records_without_references_or_sources_take_those_of_files(in_tmp, capsys):
    Path("out.jsonl").write_text("".join(json.dumps({"id": f"k{n}", "prediction": f"p{n}"}) + "\n" for n in (1, 2)))
    Path("own.json").write_text(json.dumps([["r1", "p1"], ["r2", "q"]]))
    for name, text in {"texts": "p1\nq\n", "gold": "r1\nr2\n", "read": "s1\ns2\n"}.items():
        Path(name).write_text(text)
    gold, read = [Path("gold")], Path("read")
    assert read_predictions(Path("out.jsonl"), gold, read) == [
        Prediction("k1", "s1", "r1", "p1"), Prediction("k2", "s2", "r2", "p2")
    ]  # fmt: skip
    assert [each.source for each in read_predictions(Path("own.json"), sources=read)] == ["s1", "s2"]
    assert main(["predictions=own.json,texts", "references=gold", "metrics=exact_match"]) == 0
    assert main(["predictions=own.json", "sources=read", "metrics=[sari]"]) == 0
    Path("gold").write_text("r1\n")
    assert main(["predictions=out.jsonl", "references=gold"]) == 2
    assert "references is 'gold': it has 1 lines, and out.jsonl has 2" in capsys.readouterr().err


def test_a_carriage_return_inside_a_text_ends_no_line(in_tmp):
    Path("texts").write_bytes(b"one\rtwo\r\nthree\n")
    Path("gold").write_bytes(b"1\n3\n")
    assert [each.prediction for each in read_predictions(Path("texts"), [Path("gold")])] == ["one\rtwo", "three"]
