"""`best.ckpt` is the best and `last.ckpt` the last, whatever is chosen, and wherever the folder is moved."""

from __future__ import annotations

import itertools
from datetime import timedelta
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from encdec_lightning.errors import UserError
from encdec_lightning.signals import TERMINATION
from encdec_lightning.training.callbacks import checkpoints
from encdec_lightning.training.callbacks.checkpoints import BestCheckpoint, LastCheckpoint, best_keeper, give_name

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
SCORES = {1: 5.0, 2: 3.0, 3: 4.0, 4: 2.0, 5: 6.0, 6: 1.0, 7: 8.0, 8: 7.0}
"""What is validated after each step: the least is at 6, the most at 7."""


class Scored(lightning.LightningModule):
    """Counts its steps in its weight, and has a known score after each."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index) -> torch.Tensor:
        return self.weight

    def validation_step(self, batch, index) -> None:
        self.log("val/score", SCORES[round(-self.weight.item())])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(
    callbacks: list[lightning.Callback], ckpt: Path | None = None, module: Scored | None = None, **arguments: object
) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    steps = {"max_steps": 8, "val_check_interval": 1, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    trainer = lightning.Trainer(callbacks=callbacks, **{**quiet, **steps, **arguments})
    loader = torch.utils.data.DataLoader(torch.zeros(4))
    trainer.fit(module or Scored(), loader, loader, ckpt_path=ckpt, weights_only=True)
    return trainer


def step_of(path: Path) -> int:
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == -checkpoint["state_dict"]["weight"]
    return checkpoint["global_step"]


CHOICES = list(itertools.product((1, 3, -1), (None, "best", "mine", "{epoch}", "{step}"), (True, False)))


@pytest.mark.parametrize(("save_top_k", "filename", "counter"), CHOICES, ids=str)
def test_the_best_is_the_best(save_top_k, filename, counter, tmp_path):
    for mode, best in (("min", 6), ("max", 7)):
        folder = tmp_path / mode
        keeper = BestCheckpoint(folder, filename, "val/score", save_top_k=save_top_k, mode=mode, enable_version_counter=counter)  # fmt: skip
        fit([keeper])
        assert step_of(folder / "best.ckpt") == best
        assert keeper.best_model_score == SCORES[best]
        ranked = sorted(SCORES, key=SCORES.get, reverse=mode == "max")
        expected = sorted(ranked[: save_top_k if save_top_k > 0 else len(SCORES)])
        others = {step_of(path) for path in folder.iterdir() if path.name != "best.ckpt" or save_top_k == 1}
        assert sorted(others) == expected


@pytest.mark.parametrize("save_top_k", [1, 2])
@pytest.mark.parametrize("kind", [BestCheckpoint, ModelCheckpoint])
@pytest.mark.parametrize("stop", [2, 4, 7])
def test_a_folder_that_was_moved_goes_on_as_one_that_was_not(stop, kind, save_top_k, tmp_path):
    """Lightning's own callback too, where `last.ckpt` is kept beside it."""

    def callbacks(folder: Path) -> list[lightning.Callback]:
        return [kind(folder, "{step}", "val/score", save_top_k=save_top_k), LastCheckpoint(folder)]

    whole = fit(callbacks(tmp_path / "whole"))
    fit(callbacks(tmp_path / "first"), max_steps=stop)
    moved = (tmp_path / "first").rename(tmp_path / "moved")
    resumed = fit(callbacks(moved), moved / "last.ckpt")
    expected, found = (
        torch.load(folder / "last.ckpt", weights_only=True) for folder in (tmp_path / "whole", tmp_path / "moved")
    )
    assert found["state_dict"] == expected["state_dict"]
    assert {path.name for path in moved.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    assert step_of(Path(best_keeper(resumed).best_model_path)) == 6
    assert best_keeper(resumed).best_model_score == best_keeper(whole).best_model_score == SCORES[6]
    names = [{Path(path).name: float(score) for path, score in best_keeper(each).best_k_models.items()} for each in (whole, resumed)]  # fmt: skip
    assert names[0] == names[1]
    assert not (tmp_path / "first").exists()


def test_a_folder_of_other_files_starts_with_no_best(tmp_path):
    """A checkpoint that goes on in a new folder, the old one staying where it is, is no moved folder."""
    fit([BestCheckpoint(tmp_path / "a", None, "val/score"), LastCheckpoint(tmp_path / "a")], max_steps=6)
    more = BestCheckpoint(tmp_path / "b", None, "val/score")
    with pytest.warns(UserWarning, match="The dirpath has changed"):
        fit([more, LastCheckpoint(tmp_path / "b")], tmp_path / "a" / "last.ckpt")
    assert step_of(tmp_path / "b" / "best.ckpt") == 8
    assert step_of(tmp_path / "a" / "best.ckpt") == 6


ENDS = {
    "steps": {},
    "no validation": {"limit_val_batches": 0},
    "no validation, an interval beyond the end": {"limit_val_batches": 0, "val_check_interval": 50},
    "no validation, by epochs": {"limit_val_batches": 0, "check_val_every_n_epoch": 1, "val_check_interval": 1.0},
    "an epoch": {"max_steps": -1, "max_epochs": 2, "check_val_every_n_epoch": 5, "val_check_interval": 1.0},
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("only_at_end", [True, False])
def test_every_fit_leaves_its_last_step(only_at_end, end, tmp_path):
    fit([LastCheckpoint(tmp_path / "kept", only_at_end=only_at_end)], **ENDS[end])
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["last.ckpt"]
    assert step_of(tmp_path / "kept" / "last.ckpt") == 8


@pytest.mark.parametrize(("batches", "accumulate", "steps"), [(3, 1, [3, 6, 8]), (4, 2, [2, 4, 6, 8])])
def test_without_validation_it_is_saved_as_often_as_with(batches, accumulate, steps, tmp_path):
    saved: list[int] = []

    class Look(LastCheckpoint):
        def _save_checkpoint(self, trainer, filepath) -> None:
            super()._save_checkpoint(trainer, filepath)
            saved.append(trainer.global_step)

    fit([Look(tmp_path)], val_check_interval=batches, limit_val_batches=0, accumulate_grad_batches=accumulate)
    assert saved == steps


def test_a_dry_run_writes_nothing(tmp_path):
    fit([BestCheckpoint(tmp_path / "kept", None, "val/score"), LastCheckpoint(tmp_path / "kept")], fast_dev_run=True)
    assert not (tmp_path / "kept").exists()


def test_the_best_cannot_have_the_name_of_the_last(tmp_path):
    with pytest.raises(UserError, match="the last checkpoint has this name"):
        fit([BestCheckpoint(tmp_path, "last", "val/score")])


@pytest.mark.parametrize("links", [True, False])
def test_names(links, tmp_path, monkeypatch):
    if not links:

        def refuse(*_: object) -> None:
            raise OSError("this file system has no hard links")

        monkeypatch.setattr(checkpoints.os, "link", refuse)
    tmp_path = tmp_path / "here"
    tmp_path.mkdir()
    first, second, name = tmp_path / "first", tmp_path / "second", tmp_path / "best.ckpt"
    first.write_text("1")
    second.write_text("2")
    for path in (first, second, second):
        give_name(path, name)
        assert name.read_text() == path.read_text()
    second.unlink()
    assert name.read_text() == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "first"]
    folder = tmp_path / "sharded"
    folder.mkdir()
    (folder / "part").write_text("3")
    give_name(folder, name)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert (moved / "best.ckpt" / "part").read_text() == "3"


class StopsAtThree(lightning.Callback):
    """As early stopping, in the third validation."""

    def on_validation_end(self, trainer, pl_module) -> None:
        trainer.should_stop = trainer.global_step == 3


@pytest.mark.parametrize("asked", [False, True], ids=["stopped", "and asked to end"])
def test_a_fit_that_a_callback_has_stopped_takes_no_step_more(asked: bool, tmp_path, monkeypatch):
    """Only its test is left to do, also where SIGTERM came in the validation that has stopped it."""
    with monkeypatch.context() as ending:
        ending.setattr(TERMINATION, "asked", asked)
        assert fit([StopsAtThree(), LastCheckpoint(tmp_path)]).global_step == 3
    goes_on = fit([LastCheckpoint(tmp_path)], tmp_path / "last.ckpt")
    assert goes_on.global_step == 3 and step_of(tmp_path / "last.ckpt") == 3


@pytest.mark.parametrize("planned", [{"max_steps": 4}, {"max_steps": -1, "max_epochs": 1}], ids=str)
def test_a_fit_that_took_its_planned_steps_can_be_extended(planned, tmp_path):
    """Our modules end a fit themselves at its last step, which is no early stop."""

    class Ends(Scored):
        def total_steps(self) -> int:
            return self.trainer.max_steps if self.trainer.max_steps > 0 else 4

        def on_train_batch_end(self, *_: object) -> None:
            self.trainer.should_stop |= self.trainer.global_step == self.total_steps()

    assert fit([LastCheckpoint(tmp_path)], module=Ends(), **planned).global_step == 4
    assert fit([LastCheckpoint(tmp_path)], tmp_path / "last.ckpt", module=Ends()).global_step == 8


class Kept(LastCheckpoint):
    """Notes each step that is saved, with the best score that the checkpoint knows."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.saved: list[tuple[int, float | None]] = []

    def _save_checkpoint(self, trainer, filepath) -> None:
        super()._save_checkpoint(trainer, filepath)
        checkpoint = torch.load(filepath, weights_only=True)
        (best,) = [each for name, each in checkpoint["callbacks"].items() if name.startswith("BestCheckpoint")]
        score = best["best_model_score"]
        self.saved.append((checkpoint["global_step"], None if score is None else float(score)))


@pytest.mark.parametrize(
    ("interval", "options", "expected"),
    [
        ({"every_n_train_steps": 2}, {}, [2, 4, 6, 8]),
        ({"every_n_train_steps": 2}, {"max_steps": 6}, [2, 4, 6]),
        ({"every_n_train_steps": 3}, {}, [3, 6, 8]),
        ({"every_n_train_steps": 1}, {"val_check_interval": 2}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"every_n_train_steps": 3}, {"val_check_interval": 3}, [3, 6, 8]),
        ({"train_time_interval": timedelta(0)}, {"val_check_interval": 2}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"every_n_train_steps": 2}, {"val_check_interval": 1.0, "check_val_every_n_epoch": 1}, [2, 4, 6, 8]),
        ({"every_n_train_steps": 2}, {"limit_val_batches": 0}, [2, 4, 6, 8]),
    ],
    ids=str,
)
def test_what_is_saved_by_steps_knows_its_step_s_validation(interval, options, expected, tmp_path):
    """A fit that goes on from it would not make up for the validation."""
    last = Kept(tmp_path, **interval)
    fit([BestCheckpoint(tmp_path, None, "val/score"), last], **options)
    assert [step for step, _ in last.saved] == expected
    every = 4 if options.get("val_check_interval") == 1.0 else options.get("val_check_interval", 1)
    for step, score in last.saved:
        seen = [SCORES[each] for each in range(every, step + 1, every) if "limit_val_batches" not in options]
        assert score == min(seen, default=None)


def test_a_stop_that_may_not_be_yet_keeps_nothing_from_being_saved(tmp_path):
    """Early stopping before `min_steps`."""

    class Stops(lightning.Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            trainer.should_stop = True

    last = Kept(tmp_path, every_n_train_steps=2)
    fit([Stops(), BestCheckpoint(tmp_path, None, "val/score"), last], min_steps=5, val_check_interval=50)
    assert [step for step, _ in last.saved] == [2, 4, 5]


def test_within_a_step_nothing_is_saved(tmp_path):
    """Steps of three micro-batches, and of one at the end of each epoch of four."""
    last = Kept(tmp_path, train_time_interval=timedelta(0))
    batches: list[int] = []

    class Look(lightning.Callback):
        def on_save_checkpoint(self, trainer, module, checkpoint) -> None:
            batches.append(trainer.fit_loop.epoch_loop.total_batch_idx)

    options = {"accumulate_grad_batches": 3, "limit_val_batches": 0, "max_steps": 4}
    fit([Look(), BestCheckpoint(tmp_path, None, "val/score"), last], **options)
    assert (last.saved, batches) == ([(step, None) for step in (1, 2, 3, 4)], [2, 3, 6, 7])
