"""Rehearse a cell of each of the paper's tasks: real rows in the original's layout, its preset, and 20 updates.

`python experiments/miniature/rehearse.py FOLDER --data FOLDER_OF_TASKS` writes rows of debsum, wikifusion and debmt as
the originals have theirs (archives of TSV files, parallel texts, repositories of parquet files), and runs
`encdec-train experiment=rothe2020/<task> variant=bertshare` on them. Only the places of the files, the checkpoints
(`checkpoints=miniature`), the number of updates and of evaluated examples differ from the published setting.
What came out is in rehearsal.json.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.run import Run
from encdec_lightning.training.product_speeds import processor

RESULTS = Path(__file__).with_name("rehearsal.json")
UPDATES = 20
PARTS = ("train", "validation", "test")
COLUMNS = (
    *("coherent_first_sentence", "coherent_second_sentence", "incoherent_first_sentence"),
    *("incoherent_second_sentence", "discourse_type", "connective_string"),
)
PLACES = {
    "https://storage.googleapis.com/discofuse.appspot.com": "{}/discofuse",
    "https://github.com/google-research-datasets/wiki-split/raw/master": "{}/wikisplit",
    "hf://datasets/Harvard/gigaword/data": "{}/gigaword",
    "hub:abisee/cnn_dailymail": "hub:{}/cnn_dailymail",
    "hub:EdinburghNLP/xsum@refs/convert/parquet": "hub:{}/xsum",
    "hub:wmt/wmt14": "hub:{}/wmt14",
}
"""Where a preset's location begins, and what takes that place."""
KEPT = ("train/steps", "train/examples", "train/seconds", "best/val/loss", "data/train_examples", "parameters")

Rows = dict[str, list[dict[str, str]]]


def discofuse(folder: Path, rows: Rows) -> None:
    """An archive of TSV files with a header."""
    with zipfile.ZipFile(folder / "discofuse_v1_wikipedia.zip", "w") as archive:
        for part, name in zip(PARTS, ("train", "dev", "test"), strict=True):
            lines = ["\t".join(COLUMNS)]
            for row in rows[part]:
                first, _, second = row["source"].partition(" . ")
                lines.append("\t".join((row["target"], "", f"{first} .", second, "PAIR", "and")))
            archive.writestr(f"discofuse_v1/wikipedia/{name}_balanced.tsv", "\n".join(lines) + "\n")


def wikisplit(folder: Path, rows: Rows) -> None:
    """TSV files without a header, of which the first is in an archive."""
    for part in PARTS:
        lines = ("{}\t{}\n".format(row["target"], row["source"].replace(" . ", " . <::::> ", 1)) for row in rows[part])
        (folder / f"{part}.tsv").write_text("".join(lines), encoding="utf-8")
    with zipfile.ZipFile(folder / "train.tsv.zip", "w") as archive:
        archive.write(folder / "train.tsv", "train.tsv")


def gigaword(folder: Path, rows: Rows) -> None:
    """Parallel texts in an archive, in lower case."""
    with zipfile.ZipFile(folder / "ggw_data.zip", "w") as archive:
        for part, name in zip(PARTS, ("train", "dev", "test"), strict=True):
            for column, end in (("document", "src"), ("summary", "tgt")):
                lines = (" ".join(row[column].lower().split()) + "\n" for row in rows[part])
                archive.writestr(f"org_data/{name}.{end}.txt", "".join(lines))


def cnn_dailymail(folder: Path, rows: Rows) -> None:
    """A repository of parquet files."""
    named = {"article": "document", "highlights": "summary"}
    _repository(folder, "3.0.0", {part: [_renamed(row, named) for row in rows[part]] for part in PARTS})


def xsum(folder: Path, rows: Rows) -> None:
    """A repository of parquet files."""
    named = {"document": "document", "summary": "summary"}
    _repository(folder, "default", {part: [_renamed(row, named) for row in rows[part]] for part in PARTS})


def wmt14(folder: Path, rows: Rows) -> None:
    """A repository of parquet files whose one column has both languages."""
    _repository(folder, "de-en", {part: [{"translation": row} for row in rows[part]] for part in PARTS})


LAYOUTS: dict[str, tuple[str, str, Callable[[Path, Rows], None]]] = {
    "discofuse": ("discofuse", "wikifusion", discofuse),
    "wikisplit": ("wikisplit", "wikifusion", wikisplit),
    "gigaword": ("gigaword", "debsum", gigaword),
    "cnn_dailymail": ("cnn_dailymail", "debsum", cnn_dailymail),
    "xsum": ("xsum", "debsum", xsum),
    "wmt14_en_de": ("wmt14", "debmt", wmt14),
    "wmt14_de_en": ("wmt14", "debmt", wmt14),
}
"""By preset the folder's name, the task whose rows it takes, and who writes it."""


def _renamed(row: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    found = {new: row[old] for new, old in names.items()}
    return found | {"id": f"{hashlib.sha1(row['document'].encode()).hexdigest()}"}


def _repository(folder: Path, configuration: str, splits: dict[str, list[dict[str, Any]]]) -> None:
    (folder / configuration).mkdir(exist_ok=True)
    lines = ["---", "configs:", f"- config_name: {configuration}", "  data_files:"]
    for split, rows in splits.items():
        file = f"{configuration}/{split}-00000-of-00001.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / file)
        lines += [f"  - split: {split}", f"    path: {file}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")


def rows_of(data: Path, task: str) -> Rows:
    """A task's rows by part."""
    found: Rows = {}
    for part in PARTS:
        with gzip.open(data / task / f"{part}.jsonl.gz", "rt", encoding="utf-8") as stream:
            found[part] = [json.loads(line) for line in stream]
    return found


def command(task: str, folder: Path) -> list[str]:
    """The command line of a task's cell, with the files of a folder."""
    cell = [f"experiment=rothe2020/{task}", "variant=bertshare", "checkpoints=miniature"]
    places = []
    for part in PARTS:
        place = str(getattr(compose_config(cell).task, part))
        moved = [place.replace(begin, new.format(folder)) for begin, new in PLACES.items() if place.startswith(begin)]
        places.append(f"task.{part}={moved[0]}")
    few = (f"trainer.max_steps={UPDATES}", "task.validation_examples=50", "task.test_examples=100")
    ends = (f"folder={folder / 'runs' / task}", "export=false")
    return [
        sys.executable,
        "-m",
        "encdec_lightning.cli.train",
        *cell,
        *places,
        *few,
        f"validate_every={UPDATES}",
        *ends,
    ]


def main() -> int:
    """1 where a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the files and the runs")
    parser.add_argument("--data", type=Path, required=True, help="the folder of debsum, debmt and wikifusion")
    parser.add_argument("--tasks", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), metavar="TASK")
    given = parser.parse_args()
    folder, failed = given.folder.resolve(), []
    for task in given.tasks:
        name, origin, write = LAYOUTS[task]
        (folder / name).mkdir(parents=True, exist_ok=True)
        write(folder / name, rows_of(given.data, origin))
        line = command(task, folder)
        print(*line, flush=True)
        if subprocess.run(line, check=False).returncode:
            failed.append(task)
            continue
        metrics = Run(folder / "runs" / task).metrics()
        scores = [key for key in metrics if key.startswith("test/") and f"{key}/signature" in metrics]
        found = {key: round(metrics[key], 3) for key in (*KEPT, *scores) if key in metrics}
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known[task] = found | {"precision": metrics["train/precision"], "processor": processor()}
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    print(f"failed: {', '.join(failed)}" if failed else "all cells have run")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
