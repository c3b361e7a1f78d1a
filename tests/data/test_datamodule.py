"""The DataModule: which loader holds what."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lightning.pytorch.trainer.states import TrainerFn

from encdec_lightning import Seq2SeqModule, Training, compose
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data import datamodule
from encdec_lightning.data.datamodule import Seq2SeqDataModule
from encdec_lightning.data.examples.store import OnDisk, StoreWriter
from encdec_lightning.data.options import Loading, Task
from encdec_lightning.errors import UserError
from encdec_lightning.records import Pair

COUNTS = {"train": 30, "validation": 9, "test": 7}
COLUMNS = {"source": "document", "target": "summary", "id": "key", "max_source_length": 20, "max_target_length": 6}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for seed, (split, count) in enumerate(COUNTS.items()):
        tiny.write_rows(folder / f"{split}.jsonl", tiny.pairs(count, seed))
    return Task(**{split: str(folder / f"{split}.jsonl") for split in COUNTS}, **COLUMNS)


@pytest.fixture(scope="module")
def tokenizers():
    return Tokenizers(tiny.wordpiece())


@pytest.fixture
def new(task, tokenizers):
    def new(loading=None, rank=None, world_size=1, **changes):
        data = Seq2SeqDataModule(replace(task, **changes), tokenizers, loading or Loading(batch_tokens=100))
        if rank is not None:
            data.trainer = SimpleNamespace(
                global_rank=rank, world_size=world_size, overfit_batches=0, limit_train_batches=1.0
            )
        return data

    return new


def ids(loader):
    """The ids of all examples; training batches carry none, so they are looked up."""
    if not loader._with_pairs:
        numbers = [
            index
            for position in range(len(loader))
            for index in loader._plan(loader._epoch).batch(position, loader._rank)[0]
        ]
        return [loader.examples.pair(number).id for number in numbers]
    return _ids(loader)


def _ids(loader):
    return [pair.id for batch in loader for pair in batch.pairs]


def test_each_split_once_and_in_its_own_loader(new):
    data = new()
    (validation,) = data.val_dataloader()
    loaders = (data.train_dataloader(), validation, data.test_dataloader())
    for seed, (loader, count) in enumerate(zip(loaders, COUNTS.values(), strict=True)):
        assert sorted(ids(loader)) == sorted(f"row-{seed}-{number}" for number in range(count))
    assert ids(data.predict_dataloader()) == ids(data.test_dataloader())


def test_lengths_are_cut_and_batches_bounded(new):
    loaders = [new().train_dataloader(), new(Loading(batch_tokens=1, evaluation_batch_tokens=100)).test_dataloader()]
    for loader in loaders:
        sizes = []
        for batch in loader:
            rows, width = batch.source_ids.shape
            sizes.append(rows)
            assert width <= 20
            assert batch.target_ids.shape[1] <= 6
            assert rows * (width + batch.target_ids.shape[1]) <= 100
        assert max(sizes) > 1
    assert {batch.examples for batch in new(Loading(batch_tokens=1)).test_dataloader()} == {1}


def test_without_test_file_validation_is_tested(new):
    assert sorted(ids(new(test=None).test_dataloader())) == sorted(f"row-1-{number}" for number in range(9))


def test_a_second_loader_to_generate_for(new):
    first, second = new(validation_generate=4).val_dataloader()
    assert len(ids(first)) == 9
    assert sorted(ids(second)) == [f"row-1-{number}" for number in range(4)]
    assert len(ids(new(validation_generate=50).val_dataloader()[1])) == 9


def test_evaluation_is_the_same_in_every_epoch_and_training_is_not(new):
    data = new()
    training, validation = data.train_dataloader(), data.val_dataloader()[0]
    before = ids(training), ids(validation)
    training.set_epoch(1)
    validation.set_epoch(1)
    assert ids(training) != before[0]
    assert ids(validation) == before[1]
    assert ids(new(Loading(batch_tokens=100, seed=1)).train_dataloader()) != before[0]


@pytest.mark.parametrize(("accumulate", "world_size"), [(1, 1), (3, 1), (1, 2), (2, 2)])
def test_updates_per_epoch(new, accumulate, world_size):
    loading = Loading(batch_tokens=100, accumulate=accumulate)
    modules = [new(loading, rank, world_size) for rank in range(world_size)]
    loaders = [module.train_dataloader() for module in modules]
    for module, loader in zip(modules, loaders, strict=True):
        assert module.updates_per_epoch() * accumulate == len(loader) == len(list(loader))
    assert sorted(one for loader in loaders for one in ids(loader)) == sorted(f"row-0-{n}" for n in range(30))
    tested = [one for module in modules for one in ids(module.test_dataloader())]
    assert sorted(tested) == sorted(f"row-2-{n}" for n in range(7))


@pytest.mark.parametrize("size", [{"accumulate": 2}, {"update_examples": 8}], ids=str)
def test_a_step_plans_no_epoch(new, monkeypatch, size):
    """A plan of millions of pairs takes more than a second: one an epoch, one for the loader, one to count the updates."""
    data, plans = new(Loading(batch_tokens=100, **size)), []
    planned = data._training_plan
    monkeypatch.setattr(data, "_training_plan", lambda epoch: plans.append(epoch) or planned(epoch))
    loader = data.train_dataloader()
    expected = data.updates_per_epoch()
    for epoch in range(2):
        loader.set_epoch(epoch)
        for _ in loader:
            assert data.updates_per_epoch() == expected
    assert sorted(plans) == [0, 0, 0, 1]


def test_update_tokens_are_those_of_all_ranks_and_micro_batches(new):
    loaders = [new(Loading(batch_tokens=100, accumulate=2), rank, 2).train_dataloader() for rank in range(2)]
    batches = [list(loader) for loader in loaders]
    for start in range(0, len(batches[0]), 2):
        update = [batch for rank in batches for batch in rank[start : start + 2]]
        assert {batch.update_tokens for batch in update} == {sum(int(batch.target_lengths.sum()) for batch in update)}


def test_too_few_examples(new):
    with pytest.raises(UserError, match="2 examples cannot fill updates of 3 batches"):
        new(Loading(accumulate=3), train_examples=2).train_dataloader()


def test_a_split_is_prepared_once_and_only_when_asked_for(new, monkeypatch):
    prepare, asked = datamodule.prepared, []
    monkeypatch.setattr(datamodule, "prepared", lambda *args: asked.append(args[2]) or prepare(*args))
    data = new(train="no/such/file.jsonl")
    assert asked == []
    data.val_dataloader()
    data.val_dataloader()
    data.fingerprint("validation")
    assert asked == ["validation"]
    with pytest.raises(UserError, match="no such file"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("what", "splits"),
    [
        (TrainerFn.FITTING, ["train", "validation", "test"]),
        (TrainerFn.VALIDATING, ["validation"]),
        (TrainerFn.TESTING, ["test"]),
        (TrainerFn.PREDICTING, ["test"]),
    ],
)
def test_only_the_splits_that_a_trainer_needs_are_prepared(what, splits, new, monkeypatch):
    prepare, asked = datamodule.prepared, []
    monkeypatch.setattr(datamodule, "prepared", lambda *args: asked.append(args[2]) or prepare(*args))
    data = new()
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn=what), is_global_zero=True)
    data.prepare_data()
    assert asked == splits


PAIRS = st.lists(st.builds(Pair, *[st.text("ab", min_size=1, max_size=3)] * 3), min_size=1, max_size=4)


def fingerprint(pairs):
    with tempfile.TemporaryDirectory() as name:
        writer = StoreWriter(Path(name) / "store", (9, 9))
        ids = [np.array([1], dtype=np.uint32)] * len(pairs)
        writer.extend(range(len(pairs)), pairs, (ids, ids), np.ones((len(pairs), 2), dtype=np.int32))
        writer.close()
        return OnDisk(Path(name) / "store").meta["fingerprint"]


@settings(deadline=None)
@example(first=[Pair("a", "b", "ab")], second=[Pair("a", "ba", "b")])
@given(first=PAIRS, second=PAIRS)
def test_the_fingerprint_is_that_of_the_content(first, second):
    assert (fingerprint(first) == fingerprint(second)) is (first == second)


def test_a_changed_character_changes_the_fingerprint_and_nothing_else_does(new, task, tmp_path):
    before = new().fingerprint("train")
    assert len(before) == 64
    assert new().train_dataloader().origin.data.startswith(before[:32])
    rows = tiny.pairs(30, 0)
    copy = str(tiny.write_rows(tmp_path / "copy.jsonl", rows))
    assert new(train=copy, max_source_length=10).fingerprint("train") == before
    with pytest.raises(UserError, match="other data"):  # the same texts, but other tokens of them
        new(max_source_length=10).train_dataloader().load_state_dict(new().train_dataloader().state_dict())
    assert new(train_examples=29).fingerprint("train") != before
    for column in ("key", "document", "summary"):
        changed = [*rows[:-1], rows[-1] | {column: rows[-1][column] + "s"}]
        path = str(tiny.write_rows(tmp_path / "changed.jsonl", changed))
        data = new(train=path)
        assert data.fingerprint("train") != before
        with pytest.raises(UserError, match="other data"):
            data.train_dataloader().load_state_dict(new().train_dataloader().state_dict())


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_fit_goes_on_with_the_validation_and_test_data_it_began_with(split, new, task, tmp_path):
    state = new().state_dict()
    data = new(Loading(batch_tokens=77), **{split: str(shutil.copy(getattr(task, split), tmp_path / "moved.jsonl"))})
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING))
    data.load_state_dict(state)  # the same content elsewhere
    data.load_state_dict({})  # of a checkpoint that says nothing of them
    tiny.write_rows(tmp_path / "other.jsonl", tiny.pairs(8, seed=9))
    other = new(**{split: str(tmp_path / "other.jsonl")})
    other.trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING))
    sentence = rf"task.{split} is '.*other.jsonl': its examples are not those that the run began with .* new run"
    with pytest.raises(UserError, match=sentence):
        other.load_state_dict(state)
    other.trainer.state.fn = TrainerFn.TESTING  # another test of a trained model is no continuation
    other.load_state_dict(state)


def test_a_trainer_keeps_what_the_data_were_in_its_checkpoints(new, task, tmp_path, files):
    """The refusal reaches a fit that is continued, before its first step."""
    tokenizers = Tokenizers.from_pretrained(files.bert)

    def fit(ckpt_path=None, **changes):
        changed = replace(task, **changes)
        model = compose(files.bert, files.bert, "tied", tokenizers=tokenizers)
        module = Seq2SeqModule(model, tokenizers, changed, Training(learning_rate=1e-3))
        trainer = lightning.Trainer(max_steps=1 if ckpt_path is None else 2, accelerator="cpu", logger=False,
                                    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                                    use_distributed_sampler=False)  # fmt: skip
        trainer.fit(module, Seq2SeqDataModule(changed, tokenizers), ckpt_path=ckpt_path, weights_only=True)
        return trainer

    fit().save_checkpoint(tmp_path / "at.ckpt")
    other = str(tiny.write_rows(tmp_path / "other.jsonl", tiny.pairs(7, seed=9)))
    with pytest.raises(UserError, match=r"task.test is '.*other.jsonl': its examples are not those that the run began"):
        fit(tmp_path / "at.ckpt", test=other)
    moved = shutil.copy(task.test, tmp_path / "moved.jsonl")
    assert fit(tmp_path / "at.ckpt", test=str(moved)).global_step == 2


def test_the_same_examples_in_different_files_are_told(new, task, tmp_path, capsys):
    new().prepare_data()
    new(test=None).prepare_data()  # validation is tested, as asked
    assert capsys.readouterr().err == ""
    copy = shutil.copy(task.validation, tmp_path / "copy.jsonl")
    new(test=str(copy)).prepare_data()
    sentence = f"task.test holds the same examples as task.validation, although they are different files: {copy} and {task.validation}"
    assert capsys.readouterr().err == sentence + "\n"
