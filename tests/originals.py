"""Small files, of our own words, laid out like the originals of the paper's data sets, quirks included."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

PARTS = ("train", "validation", "test")
DISCOFUSE_COLUMNS = (
    *("coherent_first_sentence", "coherent_second_sentence"),
    *("incoherent_first_sentence", "incoherent_second_sentence"),
    *("discourse_type", "connective_string", "has_coref_type_pronoun", "has_coref_type_nominal"),
)


def hub_folder(folder: Path, configuration: str, splits: dict[str, list[dict[str, Any]]]) -> Path:
    """A folder like a data set's repository on the Hub: a card that names the configurations, and parquet files."""
    (folder / configuration).mkdir(parents=True, exist_ok=True)
    lines = ["---", "configs:", f"- config_name: {configuration}", "  data_files:"]
    for split, rows in splits.items():
        file = f"{configuration}/{split}-00000-of-00001.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / file)
        lines += [f"  - split: {split}", f"    path: {file}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
    return folder


def discofuse(folder: Path) -> None:
    """An archive of TSV files with a header; quotes are text; a fused pair has no second sentence."""
    rows = [
        (
            "He likes tea although it is hot .",
            "",
            "He likes tea .",
            "It is hot .",
            "SINGLE_S",
            "although",
            "0.0",
            "0.0",
        ),
        ('She said "yes" .', "However , she left .", 'She said "yes" .', "She left .", "PAIR", "however", "1.0", "0.0"),
        ('" Quoted from the start .', "Then on .", '" Quoted from the start .', "On .", "PAIR", "then", "0.0", "0.0"),
    ]
    with zipfile.ZipFile(folder / "discofuse_v1_wikipedia.zip", "w") as archive:
        for part in ("train", "dev", "test"):
            lines = ["\t".join(row) for row in (DISCOFUSE_COLUMNS, *rows)]
            archive.writestr(f"discofuse_v1/wikipedia/{part}_balanced.tsv", "\n".join(lines) + "\n")
        archive.writestr("discofuse_v1/README.md", "words")


def wikisplit(folder: Path) -> None:
    """TSV without a header, tokenized, a mark between the target's sentences; the training part alone is zipped."""
    rows = [
        "The `` old '' mill , built by a guild , burned .\tA guild built the `` old '' mill . <::::> The mill burned .",
        'It rained , so 5 % stayed " home " .\tIt rained . <::::> So 5 % stayed " home " .',
    ]
    content = "\n".join(rows) + "\n"
    with zipfile.ZipFile(folder / "train.tsv.zip", "w") as archive:
        archive.writestr("train.tsv", content)
    for part in ("validation", "test"):
        (folder / f"{part}.tsv").write_text(content, encoding="utf-8")


def gigaword(folder: Path) -> None:
    """Parallel text files in an archive: lower case, digits as #, rare words as UNK, tokens apart."""
    with zipfile.ZipFile(folder / "ggw_data.zip", "w") as archive:
        for part in ("train", "dev", "test"):
            archive.writestr(
                f"org_data/{part}.src.txt", "some UNK town opened a ##.# km road on friday .\nan empty day\n"
            )
            archive.writestr(f"org_data/{part}.tgt.txt", "town opens road\nempty\n")


def cnn_dailymail(folder: Path) -> None:
    rows = [
        {
            "article": "(CNN) -- A cat slept.\nIt woke. E-mail to a friend .",
            "highlights": "Cat slept .\nIt woke up .",
            "id": f"{number:040x}",
        }
        for number in (1, 2)
    ]
    hub_folder(folder, "3.0.0", dict.fromkeys(PARTS, rows))


def xsum(folder: Path) -> None:
    rows = [{"document": "The river rose.\nPeople left.", "summary": "A river rose.", "id": "3501"}]
    hub_folder(folder, "default", dict.fromkeys(PARTS, rows))


def wmt(folder: Path, second: str = "Das Haus ist „alt“.") -> None:
    rows = [
        {"translation": {"de": "Wiederaufnahme der Sitzung", "en": "Resumption of the session"}},
        {"translation": {"de": second, "en": "The house is “old”."}},
    ]
    hub_folder(folder, "de-en", dict.fromkeys(PARTS, rows))


def nyt(folder: Path) -> None:
    rows = [
        {"article": "A long day in the city.", "abstract": "City day"},
        {"article": "The council met.", "abstract": " ".join(["word"] * 50)},
    ]
    for part in PARTS:
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
