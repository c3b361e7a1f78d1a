"""encdec-predict reads an input as the run's training pairs were read: every format, columns, ids, preprocessing."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow
import pytest
import yaml
from pyarrow import parquet
from tiny import pairs

from encdec_lightning.cli.predict import main
from encdec_lightning.data import preprocessing

PREPROCESS = f"{preprocessing.__name__}"


def as_csv(rows, header=True):
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]))
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def as_tsv(rows):
    return "".join("\t".join(row) + "\n" for row in (list(rows[0]), *(list(each.values()) for each in rows))).encode()


def as_jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_parquet(rows):
    stream = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


WRITERS = {".csv": as_csv, ".tsv": as_tsv, ".jsonl": as_jsonl, ".parquet": as_parquet}


def predicted(capsys, *argv):
    """The rows on stdout, and what is said on stderr beside the speed."""
    assert main(["run=run", *argv]) == 0
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.split("\n")[:-1]], err.splitlines()


def refused(capsys, *argv):
    assert main(["run=run", *argv]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    return line


@pytest.fixture
def tested(trained, files):
    """The rows that the run was tested on, and the texts that its test has left, by id."""
    rows = [json.loads(line) for line in Path(files.test).read_text().splitlines()]
    return rows, {each.id: (each.source, each.prediction) for each in trained.predictions()}


def texts(found):
    return {row["id"]: (row["source"], row["prediction"]) for row in found}


def change(trained, **options):
    """Other options of the task, in the run's frozen config."""
    path = trained.folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["task"] |= options
    path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("ending", WRITERS)
def test_the_file_that_the_run_was_tested_on_gives_its_predictions(ending, tested, capsys):
    rows, expected = tested
    Path(f"in{ending}").write_bytes(WRITERS[ending](rows))
    found, _ = predicted(capsys, f"input=in{ending}")
    assert texts(found) == expected and [row["id"] for row in found] == [row["key"] for row in rows]
    if ending == ".parquet":
        return
    Path(f"in{ending}.gz").write_bytes(gzip.compress(WRITERS[ending](rows)))
    with zipfile.ZipFile("in.zip", "w") as archive:
        archive.writestr(f"sub/rows{ending}", WRITERS[ending](rows))
    assert predicted(capsys, f"input=in{ending}.gz")[0] == found
    assert predicted(capsys, f"input=in.zip/sub/rows{ending}")[0] == found


def test_parallel_and_plain_text_of_any_name(tested, capsys):
    rows, expected = tested
    for name, column in (("a.en", "document"), ("a.de", "summary")):
        Path(name).write_bytes(b"\xef\xbb\xbf" + "".join(row[column] + "\r\n" for row in rows).encode())
    Path("a.txt.gz").write_bytes(gzip.compress(Path("a.en").read_bytes()))
    for location in ("a.en+a.de", "a.en", "a.txt.gz"):
        found, _ = predicted(capsys, f"input={location}")
        assert [(row["source"], row["prediction"]) for row in found] == [expected[row["key"]] for row in rows]
        assert [row["id"] for row in found] == [str(number) for number in range(1, 13)]


def test_only_a_line_end_ends_a_line(trained, capsys):
    strange = ["The\u2028matrix\x0bis given.", "Use\x85this\x0cto\x1eread.", "a,b", '{"not": "json'[:8]]
    Path("in.txt").write_bytes("\n".join(strange).encode())
    assert [row["source"] for row in predicted(capsys, "input=in.txt")[0]] == strange


@pytest.mark.parametrize("source", ["document.text", "first+second"])
def test_nested_and_joined_columns(source, tested, trained, capsys):
    rows, expected = tested
    change(trained, source=source)
    given = []
    for row in rows:
        first, second = row["document"].split(" ", 1)
        parts = {"document": {"text": row["document"]}} if "." in source else {"first": first, "second": second}
        given.append({"key": row["key"], **parts})
    for ending in (".jsonl", ".parquet"):
        Path(f"in{ending}").write_bytes(WRITERS[ending](given))  # without targets
        assert texts(predicted(capsys, f"input=in{ending}")[0]) == expected
    said = refused(capsys, f"input={source}.jsonl")
    assert said.startswith("input is ") and "there is no such file" in said


def test_columns_that_the_task_names(tested, trained, capsys):
    rows, expected = tested
    change(trained, columns=["key", "document", "summary"])
    Path("in.csv").write_bytes(as_csv(rows, header=False))
    assert texts(predicted(capsys, "input=in.csv")[0]) == expected
    Path("in.jsonl").write_bytes(as_jsonl(rows))  # whose columns have names
    assert texts(predicted(capsys, "input=in.jsonl")[0]) == expected


def test_rows_are_named_by_the_file(trained, capsys):
    Path("in.csv").write_text("document\nfirst\n\n")
    assert refused(capsys, "input=in.csv").startswith("input line 3 is ''")
    Path("in.csv").write_text("text,summary\nfirst,x\n")
    assert refused(capsys, "input=in.csv").startswith("task.source is 'document': input line 2 has no such column, but")


def test_formats_that_are_given(tested, capsys, monkeypatch):
    rows, expected = tested
    content = as_jsonl(rows)
    Path("in.json").write_bytes(content)
    assert texts(predicted(capsys, "input=in.json")[0]) == expected
    for name in ("in.txt", "in"):
        Path(name).write_bytes(content)
        said = refused(capsys, f"input={name}")
        assert said.startswith("input ") and "give format=jsonl" in said and "format=text" in said
        assert texts(predicted(capsys, f"input={name}", "format=jsonl")[0]) == expected
    assert predicted(capsys, "input=in.txt", "format=text")[0][0]["source"] == content.decode().splitlines()[0]
    for given, data in (("jsonl", content), ("csv", as_csv(rows)), ("tsv", as_tsv(rows))):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert texts(predicted(capsys, "input=-", f"format={given}")[0]) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert refused(capsys, "input=-").startswith('input line 1 is \'{"key"')
    assert refused(capsys, "input=in+in.txt", "format=csv").startswith("format is 'csv': it is for one file")


def test_jsonl_in_a_pipe_is_answered_where_it_pauses(trained):
    command = [sys.executable, "-m", "encdec_lightning.cli.predict", "run=run", "input=-", "format=jsonl"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for row in pairs(2, seed=6):
            process.stdin.write(json.dumps(row) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == row["key"]  # the input is still open
        process.stdin.close()
    assert process.returncode == 0


def test_preprocessing_works_as_in_training(tested, trained, capsys):
    rows, expected = tested
    change(trained, preprocess=[f"{PREPROCESS}.lower_case"])
    Path("in.txt").write_text("\n".join(row["document"].upper() for row in rows))
    found, _ = predicted(capsys, "input=in.txt")
    assert [row["source"] for row in found] == [row["document"].lower() for row in rows]
    assert [row["prediction"] for row in found] == [expected[row["key"]][1] for row in rows]  # it reads lower case


def test_a_function_that_needs_the_target_says_so(tested, trained, capsys):
    rows, _ = tested
    change(trained, preprocess=[f"{PREPROCESS}.swap"])
    Path("in.txt").write_text("\n".join(row["document"] for row in rows))
    said = refused(capsys, "input=in.txt", "output=out.txt")
    assert said == (
        f"task.preprocess is '{PREPROCESS}.swap': the source that it makes depends on the target, and input line 1 has none"
        " (column 'summary')."
    )
    Path("in.csv").write_bytes(as_csv(rows))
    assert [row["source"] for row in predicted(capsys, "input=in.csv")[0]] == [row["summary"] for row in rows]


def test_no_source_is_left_out(tested, trained, capsys):
    rows, expected = tested
    change(trained, preprocess=[f"{PREPROCESS}.target_of_50_words", f"{PREPROCESS}.ascii_quotes"])
    Path("in.txt").write_text("\n".join(row["document"] for row in rows))
    Path("in.csv").write_bytes(as_csv(rows))
    for name in ("in.txt", "in.csv"):
        found, said = predicted(capsys, f"input={name}")
        assert [row["prediction"] for row in found] == [expected[row["key"]][1] for row in rows]
        assert said[-1] == "12 sources that task.preprocess drops have a text all the same"


def test_rows_that_training_skips(tested, trained, capsys):
    rows, _ = tested
    content = as_jsonl(rows[:2]) + b'{"document": ""}\n\xff\n' + as_jsonl(rows[2:])
    Path("in.jsonl").write_bytes(content)
    assert refused(capsys, "input=in.jsonl").startswith("input line 3 column document is ''")
    path = trained.folder / "config.yaml"
    path.write_text(path.read_text().replace("on_bad_row: error", "on_bad_row: skip"))
    found, said = predicted(capsys, "input=in.jsonl", "generation.num_beams=2")
    assert [row["id"] for row in found[1:5]] == ["row-3-1", "3", "4", "row-3-2"] and len(found) == 14
    assert [row["prediction"] for row in found[2:4]] == ["", ""]
    assert said[-1].startswith("2 rows are no sources, their texts are empty: input line 3 column document is ''")
