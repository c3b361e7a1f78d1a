"""encdec-predict: texts for a user's own sources, from a run's folder alone (the base checkpoints are gone)."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from tiny import pairs

from encdec_lightning.cli.predict import main
from encdec_lightning.prediction import predict_file as prediction

SOURCES = [row["document"] for row in pairs(9, seed=6)]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["run=run", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    (line,) = err.splitlines()
    return line


def rows(text: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in text.splitlines()]


def test_jsonl_to_stdout_in_order(jsonl, capsys, monkeypatch):
    assert main(["run=run", jsonl]) == 0
    out, err = capsys.readouterr()
    found = rows(out)
    assert [(row["id"], row["source"]) for row in found] == [(f"row-6-{i}", text) for i, text in enumerate(SOURCES)]
    assert [list(row) for row in found] == [["id", "source", "prediction"]] * 9
    assert "generating" in err
    monkeypatch.setattr(prediction, "CHUNK", 2)
    assert main(["run=run", jsonl]) == 0
    assert rows(capsys.readouterr().out) == found


def test_the_trained_predictions_come_again(trained, files, capsys):
    assert main(["run=run", f"input={files.test}"]) == 0
    found = {row["source"]: row["prediction"] for row in rows(capsys.readouterr().out)}
    assert found == {each.source: each.prediction for each in trained.predictions()}


def test_text_files_and_stdin_give_the_same(jsonl, capsys, monkeypatch):
    Path("in.txt").write_text("\n".join(SOURCES))
    stdin = io.TextIOWrapper(io.BytesIO("\n".join(SOURCES).encode()), encoding="ascii", errors="surrogateescape")
    monkeypatch.setattr(sys, "stdin", stdin)
    outputs = []
    for source in (jsonl, "input=in.txt", "input=-"):
        assert main(["run=run", source]) == 0
        outputs.append(rows(capsys.readouterr().out))
    assert [row["id"] for row in outputs[1]] == [str(number) for number in range(1, 10)]
    assert outputs[1] == outputs[2] and [row["prediction"] for row in outputs[0]] == [
        row["prediction"] for row in outputs[1]
    ]
    stdin.detach()


def test_output_files(jsonl, capsys):
    assert main(["run=run", jsonl, "output=out.jsonl"]) == 0
    assert main(["run=run", jsonl, "output=out.txt"]) == 0
    assert capsys.readouterr().out == ""
    written = Path("out.txt").read_text().splitlines()
    assert written == [row["prediction"] for row in rows(Path("out.jsonl").read_text())]
    assert len(written) == 9
    assert sorted(path.name for path in Path().iterdir()) == ["in.jsonl", "out.jsonl", "out.txt", "run"]


def test_an_output_that_exists_is_refused(jsonl, capsys):
    Path("out.txt").write_text("precious")
    assert refused(capsys, jsonl, "output=out.txt").startswith("output is 'out.txt': the file exists already")
    assert Path("out.txt").read_text() == "precious"
    assert refused(capsys, jsonl, "output=no/out.txt") == "output is 'no/out.txt': its folder does not exist."


def test_options_and_checkpoints(jsonl, trained, capsys):
    outputs = {}
    for more in (
        "checkpoint=last",
        f"checkpoint={trained.checkpoint('last')}",
        "generation.max_length=1",
        "checkpoint=best",
    ):
        assert main(["run=run", jsonl, more]) == 0
        outputs[more] = [row["prediction"] for row in rows(capsys.readouterr().out)]
    assert outputs["checkpoint=last"] == outputs[f"checkpoint={trained.checkpoint('last')}"]
    assert all(len(text.split()) <= 1 for text in outputs["generation.max_length=1"])
    assert any(len(text.split()) > 1 for text in outputs["checkpoint=best"])
    assert not (trained.folder / "evaluations").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "in.jsonl",
            b'{"document": "a"}\n{"document": ',
            "input line 2 is '{\"document\":': it must be one JSON object",
        ),
        (
            "in.jsonl",
            b'{"document": "a"}\n{"source": "b"}\n',
            "task.source is 'document': input line 2 has no such column, but source.",
        ),
        ("in.jsonl", b'{"document": 3}\n', "input line 1 column document is 3: it must be a text that is not empty."),
        ("in.jsonl", b'"document"\n', "input line 1 is '\"document\"': it must be one JSON object."),
        ("in.txt", b"a\n\nb\n", "input line 2 is '': it must be a text that is not empty."),
        ("in.txt", b"a\n\xff\n", "input line 2 is '�': it must be UTF-8."),
        ("in.txt", b"", "input is 'in.txt': it is empty."),
        ("in.jsonl", b"", "input is 'in.jsonl': it is empty."),
    ],
)
def test_bad_rows_are_named_before_the_model_is_loaded(name, content, says, trained, capsys, monkeypatch):
    monkeypatch.setattr(prediction, "load", pytest.fail)
    Path(name).write_bytes(content)
    assert refused(capsys, f"input={name}", "output=out.txt").startswith(says)
    assert not Path("out.txt").exists()


@pytest.mark.parametrize("content", [b"", b"a\n\xff\n", b"a\n\n"])
def test_bad_stdin(content, trained, capsys, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert refused(capsys, "input=-", "output=out.txt").startswith("input ")
    assert sorted(path.name for path in Path().iterdir()) == ["run"]
    stdin.detach()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "input is None: a file with sources must be given"),
        (["input=none.txt"], "input is 'none.txt': there is no such file; give a .jsonl, .json, .csv"),
        (["input=run"], "input is 'run': there is no such file; give"),
        (["input=in.jsonl", "format=json"], "format is 'json': it must be one of text, jsonl, csv, tsv."),
        (["inptu=a"], "inptu is 'a': there is no such argument (did you mean 'input'?)."),
        (["input=in.jsonl", "checkpoint=lst"], "checkpoint is 'lst': there is no lst"),
        (["input=in.jsonl", "generation.num_beems=2"], "generation.num_beems is '2': there is no such option"),
        (["input=in.jsonl", "generation.max_length=999"], "generation.max_length is 999: "),
        (["input=in.jsonl", "generation.num_return_sequences=2"], "generation.num_return_sequences is 2: without"),
        (["input=in.jsonl", "scores=yes"], "scores is 'yes': it must be true or false."),
        (["input=in.jsonl", "data.batch_tokens=100"], "data.batch_tokens is '100': there is no such argument"),
    ],
)
def test_one_mistake_is_one_sentence(argv, says, jsonl, capsys):
    assert refused(capsys, *argv).startswith(says)
