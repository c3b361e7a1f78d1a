"""encdec-predict over many sources: windows, several texts, what is left after a kill, memory that runs out."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import some
from tiny import pairs, write_rows

from encdec_lightning.cli.predict import main
from encdec_lightning.generation import memory
from encdec_lightning.generation.generate import streamer, working_dtype
from encdec_lightning.generation.memory import targets_that_fit
from encdec_lightning.generation.options import Generation
from encdec_lightning.prediction import predict_file as prediction

SOURCES = [row["document"] for row in pairs(9, seed=6)]
BEAMS = ("generation.num_beams=3", "generation.num_return_sequences=3")
KILLED = """
import os, signal, sys
from encdec_lightning.cli.predict import main
from encdec_lightning.prediction import partial
from encdec_lightning.prediction import predict_file as prediction

prediction.CHUNK, left, sync = 2, int(sys.argv[1]), os.fsync

def killing(descriptor):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)

partial.os.fsync = killing
main(sys.argv[2:])
"""


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["run=run", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def rows(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def kill(after: int, *argv: str) -> None:
    """Kill the command at a call of fsync: first one of the record, then one of the lines and one of the record, ..."""
    command = [sys.executable, "-c", KILLED, str(after), "run=run", *argv]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL


def test_mixed_lengths_keep_their_order_over_windows(trained, capsys, monkeypatch):
    texts = ["path " * count for count in (1, 30, 2, 17, 3, 29, 1, 90, 5, 8, 13)]  # one is cut at the task's length
    Path("in.txt").write_text("\n".join(texts))
    alone = []
    for text in texts:
        Path("one.txt").write_text(text)
        assert main(["run=run", "input=one.txt"]) == 0
        alone.append(rows(capsys.readouterr().out)[0]["prediction"])
    monkeypatch.setattr(prediction, "CHUNK", 4)
    assert main(["run=run", "input=in.txt"]) == 0
    out, err = capsys.readouterr()
    assert [row["prediction"] for row in rows(out)] == alone
    assert [row["id"] for row in rows(out)] == [str(number) for number in range(1, 12)]
    assert "11/11" in err and "11 sources in " in err


def test_several_texts_and_scores(jsonl, capsys):
    assert main(["run=run", jsonl, BEAMS[0], "scores=true"]) == 0
    best = rows(capsys.readouterr().out)
    assert main(["run=run", jsonl, *BEAMS, "scores=true", "output=out.jsonl"]) == 0
    found = rows(Path("out.jsonl").read_text())
    assert [list(row) for row in best] == [["id", "source", "prediction", "score"]] * 9
    for row, other in zip(found, best, strict=True):
        assert list(row) == ["id", "source", "predictions"]
        assert row["predictions"][0] == {"prediction": other["prediction"], "score": other["score"]}
        scores = [each["score"] for each in row["predictions"]]
        assert len(scores) == 3 and sorted(scores, reverse=True) == scores and scores[0] < 0
    assert main(["run=run", jsonl, *BEAMS, "scores=true", "output=out.txt"]) == 0
    lines = [line.split("\t") for line in Path("out.txt").read_text().splitlines()]
    expected = [[row["id"], f"{each['score']:.6f}", each["prediction"]] for row in found for each in row["predictions"]]
    assert lines == expected
    assert main(["run=run", jsonl, *BEAMS, "output=plain.txt"]) == 0
    assert Path("plain.txt").read_text().splitlines() == [f"{number}\t{text}" for number, _, text in expected]
    assert main(["run=run", jsonl, BEAMS[0], "scores=true", "output=best.txt"]) == 0
    assert Path("best.txt").read_text().splitlines() == [f"{row['score']:.6f}\t{row['prediction']}" for row in best]


def test_newlines_and_tabs_of_a_text_become_spaces(jsonl, monkeypatch):
    monkeypatch.setattr(
        "encdec_lightning.composition.tokenizers.Tokenizers.decode", lambda self, ids: ["a\nb\tc\u2028d"] * len(ids)
    )
    assert main(["run=run", jsonl, "output=out.txt"]) == 0
    assert Path("out.txt").read_text() == "a b c d\n" * 9


# with half a record; with lines of a second window but no record of them
@pytest.mark.parametrize("after", some([5, 4], 5))
def test_a_killed_run_continues(after, jsonl, capsys, monkeypatch):
    monkeypatch.setattr(prediction, "CHUNK", 2)
    options = (jsonl, *BEAMS, "scores=true")
    assert main(["run=run", *options, "output=whole.jsonl"]) == 0
    kill(after, *options, "output=out.jsonl")
    partial = Path("out.jsonl.partial").read_bytes()
    assert Path("whole.jsonl").read_bytes().startswith(partial) and partial.count(b"\n") == 4
    assert not Path("out.jsonl").exists()
    capsys.readouterr()
    assert main(["run=run", *options, "output=out.jsonl"]) == 0
    assert "7 sources in " in capsys.readouterr().err.replace("\n", " ")
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert sorted(path.name for path in Path().glob("out*")) == ["out.jsonl"]


@pytest.mark.slow
def test_draws_and_stdin_continue_too(trained, monkeypatch):
    monkeypatch.setattr(prediction, "CHUNK", 2)
    Path("in.txt").write_text("\n".join(SOURCES))
    options = ("generation.do_sample=true", "generation.temperature=3.0", "generation.num_return_sequences=2")
    assert main(["run=run", "input=in.txt", *options, "output=whole.txt"]) == 0
    kill(7, "input=in.txt", *options, "output=out.txt")
    with Path("in.txt").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["run=run", "input=-", *options, "output=out.txt"]) == 0
    assert Path("out.txt").read_text() == Path("whole.txt").read_text()


def test_a_partial_file_of_another_job_is_refused(jsonl, trained, capsys, monkeypatch):
    monkeypatch.setattr(prediction, "CHUNK", 2)
    kill(5, jsonl, "output=out.txt")
    kept = Path("out.txt.partial").read_bytes()
    begun = "output is 'out.txt': out.txt.partial was begun with another "
    loads = prediction.load
    monkeypatch.setattr(prediction, "load", pytest.fail)
    assert refused(capsys, jsonl, "output=out.txt", "generation.num_beams=2").startswith(
        f"{begun}generation.num_beams: "
    )
    assert refused(capsys, jsonl, "output=out.txt", "scores=true").startswith(f"{begun}scores: use the same, choose")
    torch.save({**torch.load(trained.checkpoint("last"), weights_only=True), "more": 1}, "other.ckpt")
    assert refused(capsys, jsonl, "output=out.txt", "checkpoint=other.ckpt").startswith(f"{begun}checkpoint: ")
    (record,) = Path().glob("*out.txt*.json")
    content = record.read_text()
    record.write_text(content.replace('"32-true"', '"bf16-mixed"'))
    there = "precision: it was bf16-mixed, on this processor it is 32-true; go on where it was begun, choose"
    assert refused(capsys, jsonl, "output=out.txt").startswith(begun + there)
    record.write_text(content)
    monkeypatch.setattr(prediction, "load", loads)
    write_rows(Path("others.jsonl"), pairs(9, seed=7))
    said = refused(capsys, "input=others.jsonl", "output=out.txt")
    assert said.startswith("input is 'others.jsonl': its first 2 sources are not those of the partial file")
    write_rows(Path("fewer.jsonl"), pairs(9, seed=6)[:1])
    assert refused(capsys, "input=fewer.jsonl", "output=out.txt").startswith("input is 'fewer.jsonl': its first 2 ")
    Path("mine.txt.partial").write_text("precious")
    assert refused(capsys, jsonl, "output=mine.txt").startswith(
        "output is 'mine.txt': mine.txt.partial exists without "
    )
    assert Path("mine.txt.partial").read_text() == "precious" and Path("out.txt.partial").read_bytes() == kept
    Path("mine.txt.partial.json").write_text("{}")
    assert "is not a record of encdec-predict" in refused(capsys, jsonl, "output=mine.txt")


def test_no_more_is_read_than_a_window(trained, monkeypatch):
    monkeypatch.setattr(prediction, "CHUNK", 3)
    written = io.StringIO()

    def endless():
        for number in range(50):
            assert number <= written.getvalue().count("\n") + 3
            yield SOURCES[number % 9] + "\n"

    monkeypatch.setattr(sys, "stdin", endless())
    monkeypatch.setattr(sys, "stdout", written)
    assert main(["run=run", "input=-"]) == 0
    assert written.getvalue().count("\n") == 50


def test_a_pipe_is_answered_where_it_pauses(trained):
    command = [sys.executable, "-m", "encdec_lightning.cli.predict", "run=run", "input=-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for number, text in enumerate(SOURCES[:2], start=1):
            process.stdin.write(text + "\n")
            process.stdin.flush()
            row = json.loads(process.stdout.readline())  # the input is still open
            assert (row["id"], row["source"]) == (str(number), text)
        process.stdin.close()
    assert process.returncode == 0


def test_it_ends_quietly_when_nobody_reads_on(trained):
    command = [sys.executable, "-m", "encdec_lightning.cli.predict", "run=run", "input=-"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:
        process.stdin.write(SOURCES[0] + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["source"] == SOURCES[0]
        process.stdout.close()
        process.stdin.write(SOURCES[1] + "\n")
        process.stdin.close()
        said = process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE
    assert not any(word in said for word in ("Traceback", "Error", "Exception", "Broken"))


def test_the_batch_is_halved_when_memory_runs_out(jsonl, capsys, monkeypatch):
    assert main(["run=run", jsonl, *BEAMS]) == 0
    expected, given = capsys.readouterr().out, []

    def failing(model, generation, *, targets, **options):
        start = streamer(model, generation, targets=targets, **options)
        given.append(targets)

        def run(sources):
            for number, each in enumerate(start(sources)):
                if number == 2 and targets > 12:
                    raise torch.OutOfMemoryError
                yield each

        return run

    monkeypatch.setattr(memory, "streamer", failing)
    assert main(["run=run", jsonl, *BEAMS]) == 0
    assert capsys.readouterr().out == expected
    assert given[0] == 255 and given == [255, 126, 63, 30, 15][: len(given)] and len(given) >= 3

    def never(*args, **options):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(memory, "streamer", never)
    assert main(["run=run", jsonl, "generation.num_beams=2"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "generation.num_beams is 2: the memory of cpu does not hold the 2 targets of one source."


@pytest.mark.parametrize("has_bf16", [True, False])
def test_the_precision_is_that_of_the_test_unless_the_processor_would_emulate_it(
    has_bf16, jsonl, trained, monkeypatch, capsys
):
    monkeypatch.setattr("encdec_lightning.training.precision.processor_has_bf16", lambda: has_bf16)
    found, config = [], trained.folder / "config.yaml"
    config.write_text(config.read_text().replace("precision: 32-true", "precision: bf16-mixed"))

    def watched(model, *args, **options):
        found.append(working_dtype(model))
        return streamer(model, *args, **options)

    monkeypatch.setattr(memory, "streamer", watched)
    assert main(["run=run", jsonl]) == 0
    assert found == [torch.bfloat16 if has_bf16 else None]
    assert ("the model works in 32-true here" in capsys.readouterr().err) is not has_bf16


def test_targets_that_fit(probe, monkeypatch):
    monkeypatch.setattr(memory, "runs_in_onednn", lambda weight: False)  # as in fp32 on some processors
    model, beams = probe("decoder", "bert"), Generation(num_beams=4)
    place = 4 * (2 * 2 * 32 * (1 + 4 * 9 + 2 * 50) + 4 * (1 + 4 * 9)) + 2 * 4 * 4 * model.config.decoder.vocab_size
    assert targets_that_fit(model, beams, 50, 10, 20 * place, 256) == 40
    assert targets_that_fit(model, beams, 50, 10, 20 * place - 1, 256) == 36
    assert targets_that_fit(model, beams, 50, 10, 1 << 40, 255) == 252
    assert targets_that_fit(model, beams, 50, 10, 0, 256) == targets_that_fit(model, beams, 50, 10, 1, 1) == 4
    with torch.autocast("cpu", torch.bfloat16):
        assert targets_that_fit(model, beams, 50, 10, 20 * place, 256) > 40
