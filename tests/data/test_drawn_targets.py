"""`train_target=drawn`: each epoch has every pair once, with one of its targets, whatever the plan."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from encdec_lightning import Loading, Seq2SeqDataModule, Task, Tokenizers
from encdec_lightning.cli.train import main
from encdec_lightning.data.batches.drawn_targets import DrawnTargets
from encdec_lightning.data.batches.plan import training_plan
from encdec_lightning.data.batches.updates import UpdatePlanner
from encdec_lightning.errors import UserError
from encdec_lightning.run import Run

BUDGET = 60


@given(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=4, max_size=30), st.data())
def test_each_epoch_has_each_pair_once_and_its_batches_keep_to_the_budget(targets, data):
    rows = np.array([number * 3 + 1 for number, each in enumerate(targets) for _ in each])
    lengths = np.array([[5 + number % 7, length] for number, each in enumerate(targets) for length in each])
    drawn = DrawnTargets(rows, lengths, seed=data.draw(st.integers(0, 3)))
    assert drawn.lengths.tolist() == [[5 + number % 7, max(each)] for number, each in enumerate(targets)]
    sized = UpdatePlanner(drawn.lengths, BUDGET, 4, seed=0, world_size=2) if data.draw(st.booleans()) else None
    counts = set()
    for epoch in range(3):
        plan = sized.plan(epoch) if sized else training_plan(drawn.lengths, BUDGET, 1, 0, epoch, 2)
        updates = list(drawn.drawn(plan, epoch))
        batches = [batch for update in updates for ranks in update.micro_batches for batch in ranks]
        assert sorted(rows[np.concatenate(batches)]) == sorted(set(rows))
        assert all(lengths[each].max(axis=0).sum() * len(each) <= BUDGET for each in batches if len(each) > 1)
        for update in updates:
            examples = np.concatenate([batch for ranks in update.micro_batches for batch in ranks])
            assert update.target_tokens == lengths[examples, 1].sum()
        counts.add((len(updates), len(batches)))
    assert len(counts) == 1


def test_draws_are_even_and_change_with_epoch_and_seed():
    rows = np.repeat(np.arange(300), 3)
    drawn = DrawnTargets(rows, np.ones((900, 2), dtype=np.int64), seed=1)
    found = np.stack([drawn.members(epoch) - np.arange(300) * 3 for epoch in range(20)])
    shares = np.bincount(found.ravel(), minlength=3) / found.size
    assert found.min() == 0 and found.max() == 2 and np.abs(shares - 1 / 3).max() < 0.03
    assert (found[0] != found[1]).mean() > 0.5
    other = DrawnTargets(rows, np.ones((900, 2), dtype=np.int64), seed=2)
    assert (drawn.members(0) != other.members(0)).mean() > 0.5
    assert (drawn.members(3) == DrawnTargets(rows, drawn.lengths[rows], seed=1).members(3)).all()


@pytest.fixture
def several(tmp_path: Path) -> str:
    """12 pairs with one to three targets."""
    rows = []
    for number, row in enumerate(tiny.pairs(12)):
        targets = [row["summary"], "path node", "list the value of a string"][: number % 3 + 1]
        rows.append({**row, "summary": targets})
    path = tmp_path / "several.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def module(files: tiny.Files, path: str, **options) -> Seq2SeqDataModule:
    task = Task(train=path, validation=path, source="document", target="summary", id="key", max_source_length=40,
                max_target_length=12, **options)  # fmt: skip
    return Seq2SeqDataModule(task, Tokenizers.from_pretrained(files.bert), Loading(batch_tokens=120, update_examples=5))


def epoch_of(data: Seq2SeqDataModule, epoch: int) -> list[tuple[str, ...]]:
    """What the training loader gives in an epoch, as (id, target) of each example in order."""
    loader = data.train_dataloader()
    loader.set_epoch(epoch)
    tokenizer = data.tokenizers.target
    return [
        (identity, *tokenizer.batch_decode([ids[: int(length)]], skip_special_tokens=True))
        for position, batch in enumerate(loader)
        for identity, ids, length in zip(loader.ids(position), batch.target_ids, batch.lengths[:, 1], strict=True)
    ]


def test_batches_hold_the_drawn_targets(files, several):
    data = module(files, several, train_target="drawn")
    right = {row["key"]: row["summary"] for row in map(json.loads, Path(several).read_text().splitlines())}
    seen: dict[str, Counter[str]] = {key: Counter() for key in right}
    for epoch in range(12):
        found = epoch_of(data, epoch)
        assert sorted(key for key, _ in found) == sorted(right)
        for key, target in found:
            seen[key][target] += 1
    assert {key: sorted(each) for key, each in seen.items()} == {key: sorted(each) for key, each in right.items()}
    assert epoch_of(data, 3) == epoch_of(module(files, several, train_target="drawn"), 3)
    assert len(data.examples("validation").lengths) == 12
    assert data.examples("validation").pair(2).other_targets


def test_where_each_pair_has_one_target_nothing_changes(files):
    drawn, first = (module(files, files.train, train_target=each) for each in ("drawn", "first"))
    assert epoch_of(drawn, 1) == epoch_of(first, 1)


def test_an_id_of_two_rows_is_still_refused(files, several, tmp_path):
    rows = Path(several).read_text().splitlines()
    path = tmp_path / "twice.jsonl"
    path.write_text("\n".join([*rows, rows[1]]) + "\n")
    with pytest.raises(UserError, match="an example before has the same id"):
        module(files, str(path), train_target="drawn").examples("train")


def test_a_run_trains_on_them(files, several, in_tmp):
    options = files.overrides(
        f"task.train={several}", "task.id=key", "task.train_target=drawn", "data.update_examples=5", "export=false",
        "validate_every=2", "trainer.max_steps=8",
    )  # fmt: skip
    assert main([*options, "folder=whole"]) == 0
    metrics = Run("whole").metrics()
    assert metrics["train/steps"] == 8 and metrics["train/examples"] > 20
