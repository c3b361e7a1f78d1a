"""Every preset of the paper's tasks, from rows in the original's layout to a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import originals
import pytest
import tiny
import yaml

from encdec_lightning import Loading, Pair, Seq2SeqDataModule, Task, Tokenizers
from encdec_lightning.launch.command_line.presets import conf_folder

LOCAL = {  # {start of a location in a preset: the folder that takes its place}
    "https://storage.googleapis.com/discofuse.appspot.com": "discofuse",
    "https://github.com/google-research-datasets/wiki-split/raw/master": "wikisplit",
    "hf://datasets/Harvard/gigaword/data": "gigaword",
    "hub:abisee/cnn_dailymail": "hub:{}/cnn_dailymail",
    "hub:EdinburghNLP/xsum@refs/convert/parquet": "hub:{}/xsum",
    "hub:wmt/wmt14": "hub:{}/wmt14",
    "hub:wmt/wmt16": "hub:{}/wmt16",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    for name in CASES:
        if not name.startswith("wmt"):  # its presets share the two folders below
            (root / name).mkdir()
            getattr(originals, name)(root / name)
    for name, second in (("wmt14", "Das Haus ist „alt“."), ("wmt16", "Das Heim ist „alt“.")):
        (root / name).mkdir()
        originals.wmt(root / name, second)
    return root


def values_of(name: str) -> dict[str, Any]:
    """A preset's values, those it builds on included."""
    values = yaml.safe_load((conf_folder() / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
    base = values.pop("defaults", [])
    return {**(values_of(base[0]) if base else {}), **values}


def data_of(name: str, folder: Path, cache: Path, **options: Any) -> Seq2SeqDataModule:
    """The preset's data, its locations moved to the folder: their splits and their paths inside stay as they are."""
    values = values_of(name)
    for split in ("train", "validation", "test"):
        place = values.get(split)
        if place == "???":
            values[split] = str(folder / name.partition("_")[0] / f"{split}.jsonl")
        elif place is not None:
            for start, local in LOCAL.items():
                moved = local.format(folder) if local.startswith("hub:") else str(folder / local)
                place = place.replace(start, moved)
            assert str(folder) in place, f"{place} would be fetched"
            values[split] = place
    tokenizers = Tokenizers(tiny.byte_pairs(roberta=True))
    return Seq2SeqDataModule(Task(**values | options), tokenizers, Loading(cache=str(cache)))


def pairs(data: Seq2SeqDataModule, split: Any) -> list[Pair]:
    examples = data.examples(split)
    return [examples.pair(number) for number in range(len(examples.lengths))]


DISCOFUSE = [
    Pair("2", "He likes tea . It is hot .", "He likes tea although it is hot ."),
    Pair("3", 'She said "yes" . She left .', 'She said "yes" . However , she left .'),
    Pair("4", '" Quoted from the start . On .', '" Quoted from the start . Then on .'),
]
WIKISPLIT = [
    Pair(
        "1", "The `` old '' mill , built by a guild , burned .", "A guild built the `` old '' mill . The mill burned ."
    ),
    Pair("2", 'It rained , so 5 % stayed " home " .', 'It rained . So 5 % stayed " home " .'),
]
GIGAWORD = [
    Pair("1", "some UNK town opened a ##.# km road on friday .", "town opens road"),
    Pair("2", "an empty day", "empty"),
]
CNN = [
    Pair(f"{n:040x}", "(CNN) -- A cat slept.\nIt woke. E-mail to a friend .", "Cat slept .\nIt woke up .")
    for n in (1, 2)
]
WMT = [
    Pair("1", "Resumption of the session", "Wiederaufnahme der Sitzung"),
    Pair("2", "The house is “old”.", "Das Haus ist „alt“."),
]
ASCII = [WMT[0], Pair("2", 'The house is "old".', 'Das Haus ist "alt".')]
LATER = [WMT[0], Pair("2", 'The house is "old".', 'Das Heim ist "alt".')]


def turned(found: list[Pair]) -> list[Pair]:
    return [Pair(pair.id, pair.target, pair.source) for pair in found]


NYT = [
    Pair("1", "A long day in the city.", "City day"),
    Pair("2", "The council met.", " ".join(["word"] * 50)),
]
SUMMARIES = {"name": "rouge", "types": ["rouge1", "rouge2", "rougeL", "rougeLsum"]}
CASES = {  # {preset: (training pairs, test pairs, metrics, lengths)}
    "discofuse": (DISCOFUSE, DISCOFUSE, [{"name": "exact_match", "tokens": "words"}, "sari"], (128, 128)),
    "wikisplit": (WIKISPLIT, WIKISPLIT, [{"name": "exact_match", "tokens": "words"}, "sari", "bleu_nltk"], (128, 128)),
    "gigaword": (GIGAWORD, GIGAWORD, ["rouge"], (128, 32)),
    "cnn_dailymail": (CNN, CNN, [SUMMARIES], (512, 128)),
    "xsum": (*2 * ([Pair("3501", "The river rose.\nPeople left.", "A river rose.")],), ["rouge"], (512, 64)),
    "wmt14_en_de": (ASCII, ASCII, ["bleu_uncased"], (128, 128)),
    "wmt14_de_en": (turned(ASCII), turned(ASCII), ["bleu_uncased"], (128, 128)),
    "wmt14_en_de_newstest2016": (ASCII, LATER, ["bleu_uncased"], (128, 128)),
    "wmt14_de_en_newstest2016": (turned(ASCII), turned(LATER), ["bleu_uncased"], (128, 128)),
    "nyt": (NYT, NYT[1:], [SUMMARIES], (800, 140)),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_of_the_original_become_pairs_and_a_batch(name: str, folder: Path, tmp_path: Path) -> None:
    training, tested, metrics, lengths = CASES[name]
    test = {"test": str(folder / "nyt" / "test.jsonl")} if name == "nyt" else {}
    data = data_of(name, folder, tmp_path, **test)
    assert pairs(data, "train") == training
    assert pairs(data, "test") == tested
    assert data.task.metrics == metrics
    assert (data.task.max_source_length, data.task.max_target_length) == lengths
    (validation,) = data.val_dataloader()
    (batch,) = validation
    assert {pair.id for pair in batch.pairs} == {pair.id for pair in training}
    row = next(row for row, pair in enumerate(batch.pairs) if pair == training[0])
    source = data.tokenizers.encode_sources([training[0].source], lengths[0])[0]
    target = data.tokenizers.encode_targets([training[0].target], lengths[1])[0]
    assert batch.source_ids[row, : len(source)].tolist() == source
    assert batch.target_ids[row, : len(target)].tolist() == target


@pytest.mark.parametrize(("name", "rows"), [("debsum", {"document": "d", "summary": "s"}), ("debmt_en_de", {"en": "d", "de": "s"}), ("debmt_de_en", {"de": "d", "en": "s"}), ("wikifusion", {"source": "d", "target": "s"})])  # fmt: skip
def test_presets_of_local_files(name: str, rows: dict[str, str], tmp_path: Path) -> None:
    for split in ("train", "validation"):
        file = tmp_path / name.partition("_")[0] / f"{split}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(rows) + "\n", encoding="utf-8")
    assert pairs(data_of(name, tmp_path, tmp_path / "cache"), "train") == [Pair("1", "d", "s")]


def test_shares_of_discofuse_lie_inside_one_another(tmp_path: Path) -> None:
    """10% and 1% of the training pairs, and all of the others."""
    columns = "\t".join(originals.DISCOFUSE_COLUMNS)
    lines = [f"a {n}\tb\tc {n}\td\tx\ty\t0.0\t0.0" for n in range(4000)]
    file = tmp_path / "rows.tsv"
    file.write_text("\n".join([columns, *lines]) + "\n", encoding="utf-8")
    found: dict[str, set[str]] = {}
    for name in ("discofuse", "discofuse_10", "discofuse_1"):
        task = values_of(name) | {"train": str(file), "validation": str(file), "test": str(file)}
        data = Seq2SeqDataModule(Task(**task), Tokenizers(tiny.byte_pairs(roberta=True)), Loading(cache=str(tmp_path)))
        found[name] = {pair.id for pair in pairs(data, "train")}
        assert len(pairs(data, "validation")) == 4000
    assert len(found["discofuse"]) == 4000
    assert 330 < len(found["discofuse_10"]) < 470
    assert 20 < len(found["discofuse_1"]) < 65
    assert found["discofuse_1"] < found["discofuse_10"]


def test_every_task_preset_is_tested() -> None:
    names = {file.stem for file in (conf_folder() / "task").glob("*.yaml")}
    local = {"debsum", "debmt_en_de", "debmt_de_en", "wikifusion", "discofuse_10", "discofuse_1"}
    elsewhere = {"jsonl", "parallel", "hub", "pydoc", "pydoc_names"}
    assert names == set(CASES) | local | elsewhere
