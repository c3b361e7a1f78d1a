"""Data sets of the Hub, from folders laid out like its repositories and loaded by `datasets` itself."""

from __future__ import annotations

from pathlib import Path

import originals
import pytest
import tiny

from encdec_lightning import Loading, Pair, Task, Tokenizers
from encdec_lightning.data.examples.prepared import prepared
from encdec_lightning.data.sources.locations import HubSplit, locate
from encdec_lightning.errors import UserError

ROWS = [{"source": f"text {number}", "target": "t"} for number in range(7)]
TOKENIZERS = Tokenizers(tiny.byte_pairs(roberta=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return originals.hub_folder(tmp_path / "set", "plain", {"train": ROWS, "test": ROWS[:2]})


def read(location: str, tmp_path: Path) -> list[Pair]:
    examples = prepared(
        Task(train=location, validation="-"), Loading(cache=str(tmp_path / "cache")), "train", TOKENIZERS
    )
    return [examples.pair(number) for number in range(len(examples.lengths))]


def test_splits_and_their_slices(folder, tmp_path):
    whole = [Pair(str(number), row["source"], "t") for number, row in enumerate(ROWS, start=1)]
    assert read(f"hub:{folder}:plain:train", tmp_path) == whole
    assert read(f"hub:{folder}::train", tmp_path) == whole  # the one configuration there is
    assert read(f"hub:{folder}:plain:test", tmp_path) == whole[:2]
    assert read(f"hub:{folder}:plain:train[:3]", tmp_path) == whole[:3]
    part = read(f"hub:{folder}:plain:train[5:]", tmp_path)
    assert [pair.source for pair in part] == ["text 5", "text 6"]


def test_folders_of_one_name_are_not_taken_for_each_other(tmp_path):
    """`datasets` names what it keeps by the folder's last name, its configuration and the names of its files."""
    found = []
    for number, rows in enumerate((ROWS, ROWS[:3], [{"source": "other", "target": "t"}] * 2)):
        folder = originals.hub_folder(tmp_path / str(number) / "set", "plain", {"train": rows})
        found.append(f"hub:{folder}:plain:train")
    for _ in range(2):
        counts = [len(read(each, tmp_path)) for each in found]
        assert counts == [7, 3, 2]
    assert read(found[2], tmp_path)[0].source == "other"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hub:a/b:c:train", HubSplit("a/b", None, "c", "train")),
        (
            "hub:a/b@refs/convert/parquet:default:train[:1%]",
            HubSplit("a/b", "refs/convert/parquet", "default", "train[:1%]"),
        ),
        ("hub:a/b::test", HubSplit("a/b", None, None, "test")),
        ("hub:a:c:train[1:2]", HubSplit("a", None, "c", "train[1:2]")),
    ],
)
def test_how_a_location_is_read(text, expected, tmp_path):
    assert locate("task.train", text, tmp_path) == expected


@pytest.mark.parametrize("text", ["hub:", "hub:a/b", "hub:a/b:c", "hub:a/b:c:", "hub::c:train"])
def test_locations_that_are_incomplete(text, tmp_path):
    with pytest.raises(
        UserError, match=r"it must have the form hub:<id or folder>\[@<revision>\]:<configuration>:<split>"
    ):
        locate("task.train", text, tmp_path)


def test_what_datasets_cannot_load(folder, tmp_path):
    for location, reason in (
        (f"hub:{folder}:other:train", "other"),
        (f"hub:{folder}:plain:nothing", "nothing"),
        (f"hub:{tmp_path / 'nowhere'}:plain:train", "nowhere"),
        ("hub:no-such-owner/no-such-set:plain:train", "no-such-set"),
    ):
        with pytest.raises(UserError) as caught:
            read(location, tmp_path)
        sentence = str(caught.value)
        assert sentence.startswith("task.train is 'hub:") and "`datasets` cannot load it (" in sentence
        assert reason in sentence and "\n" not in sentence


def test_a_data_set_that_is_a_script_is_refused_with_a_hint(tmp_path):
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "scripted.py").write_text("raise SystemExit('it was run')\n")
    with pytest.raises(UserError, match=r"scripts are no longer supported.*@refs/convert/parquet"):
        read(f"hub:{tmp_path / 'scripted'}:default:train", tmp_path)
