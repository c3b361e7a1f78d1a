"""What is common to the LightningModules of every task: logging, optimizer, schedule, scores, gathering by id."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import lightning
import torch
from torch import Tensor, distributed

from encdec_lightning.composition.assembly import rebuild
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.foreign import check_values
from encdec_lightning.composition.lora import factors
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.data.options import Task
from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.metric import Score
from encdec_lightning.evaluation.registry import score_all
from encdec_lightning.kernels.attention_interface import use_attention
from encdec_lightning.records import Prediction
from encdec_lightning.training.arrange import arrange
from encdec_lightning.training.callbacks.finite import FiniteSteps, say_missing
from encdec_lightning.training.callbacks.progress import is_for_bar, watched
from encdec_lightning.training.checkpoint import check_fit, load_checkpoint, pack_folder, taken_from, unpack_folder
from encdec_lightning.training.freezing import freeze
from encdec_lightning.training.lora import add_lora
from encdec_lightning.training.optimizers import OptimizerFactory, clip, default_optimizer, parameter_groups
from encdec_lightning.training.options import Training
from encdec_lightning.training.resuming import prepare_to_resume
from encdec_lightning.training.schedules import SCHEDULES, schedule
from encdec_lightning.training.trainer_check import check_targets, check_trainer

LOSS_LOADER = 0  # validation has two loaders: all pairs for the loss, and some to generate for


class TaskModule(lightning.LightningModule, ABC):
    """Logging, optimizer, schedule, scores, checkpoints, gathering by id; a task adds `loss`, `predict_all`, `export`.

    Its constructor takes what this one does, and its own options after `training`.
    """

    options_name: ClassVar[str]
    """The attribute that holds the task's own options."""
    options_class: ClassVar[Callable[..., Any]]
    """Their dataclass."""

    def __init__(
        self,
        model: ComposedModel,
        tokenizers: Tokenizers,
        task: Task,
        training: Training | None = None,
        optimizer: OptimizerFactory = default_optimizer,
    ) -> None:
        super().__init__()
        training = training or Training()
        self.model: ComposedModel = model.train()  # from_pretrained gives evaluation mode, and Lightning keeps that
        add_lora(model, training.lora)
        freeze(model, training.freeze)
        self.task, self.training_options, self.tokenizers = task, training, tokenizers
        tokenizers.configure(model)
        use_attention(model)
        self._optimizer_factory = optimizer
        self._finite = FiniteSteps()
        self._waiting: list[Batch] = []
        self._step_losses: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._loss_tokens = 0
        self.scores: dict[str, Score] = {}
        """Scores of the last test with their intervals, by the metric's name (`rouge1`)."""
        self.failed_scores: dict[str, str] = {}
        """Why the last test has no score, by the metric's name."""
        self.keep_predictions: Callable[[list[Prediction]], object] | None = None
        """Called on rank 0 with what a test has predicted, before anything scores it."""
        self.show_predictions: Callable[[list[Prediction]], object] | None = None
        """Called on rank 0 with what a validation of a fit has predicted, before anything scores it."""
        self.predictions: list[Prediction] = []
        """What the last test predicted, ordered by id, on every rank."""

    @abstractmethod
    def loss(self, batch: Batch, label_smoothing: float = 0.0) -> tuple[Tensor, int]:
        """The summed loss of a batch, (), and the number of target tokens it sums over."""

    @abstractmethod
    def predict_all(self, batches: list[Batch]) -> Iterator[Prediction]:
        """A prediction for each pair of all the batches, in any order, as they are done."""

    @abstractmethod
    def export(self, folder: Path, as_a_t5gemma: bool = False) -> None:
        """Write the model and its tokenizers into a folder."""

    def predict(self, batch: Batch) -> list[Prediction]:
        """A prediction for each pair of the batch, in its order."""
        found = {each.id: each for each in self.predict_all([batch])}
        return [found[pair.id] for pair in batch.pairs]

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """This batch's share of the optimizer step's mean loss per target token.

        Lightning divides by the accumulated batches and DDP by the ranks; both are undone here, so that the gradient is
        that of the mean over all target tokens of the step, however they are spread.
        """
        total, _ = self.loss(batch, self.training_options.label_smoothing)
        self._step_losses.append(total.detach() / batch.update_tokens)
        return total * (self.trainer.accumulate_grad_batches * self.trainer.world_size / batch.update_tokens)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log `train/loss`, what the step minimizes: the mean over the target tokens of all its batches and ranks."""
        loss = torch.stack(self._step_losses).sum()
        self._step_losses = []
        if self.trainer.world_size > 1:
            distributed.all_reduce(loss)
        self._log({"train/loss": loss}, prog_bar=is_for_bar(self.trainer))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        """Ask for the end at the last step: Lightning then validates first, whatever its interval."""
        if 0 < self.total_steps() == self.trainer.global_step:
            self.trainer.should_stop = True

    def on_validation_epoch_start(self) -> None:
        """Forget what an evaluation that was interrupted has left."""
        self._waiting, self._losses, self._loss_tokens = [], [], 0

    def validation_step(self, batch: Batch, batch_index: int, dataloader_idx: int = LOSS_LOADER) -> None:
        """Add to the loss, or generate."""
        if dataloader_idx == LOSS_LOADER:
            total, tokens = self.loss(batch)
            self._losses.append(total.detach())  # where it is: asking for its value would wait for a GPU
            self._loss_tokens += tokens
        else:
            self._waiting.append(batch)

    def on_validation_epoch_end(self) -> None:
        """Log `val/loss` (without label smoothing), its perplexity and, where texts were generated, their scores."""
        losses = torch.stack(self._losses).tolist() if self._losses else []
        parts = self._gather([sum(losses), self._loss_tokens])
        total, tokens = (sum(part[i] for part in parts) for i in range(2))
        loss = torch.tensor(total / tokens, dtype=torch.float32)
        self._log({"val/loss": loss}, prog_bar=True)
        if not self.model.scores_sentences:  # a yes or no is no word
            self._log({"val/perplexity": loss.exp()})
        predictions = self._predicted("val")
        if predictions:
            if self.show_predictions is not None and self.trainer.is_global_zero and not self.trainer.sanity_checking:
                self.show_predictions(predictions)
            scores, failed = score_all(predictions, self.task.scored_with)
            self._log({f"val/{name}": each.value for name, each in scores.items()})
            say_missing(self.trainer, scores, failed)

    def on_test_epoch_start(self) -> None:
        """Forget what an evaluation that was interrupted has left."""
        self._waiting = []

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Keep the batch: all are generated for at the end, since a search is fastest over many sources."""
        self._waiting.append(batch)

    def on_test_epoch_end(self) -> None:
        """Keep `predictions` and `scores`, and log the scores as `test/...`."""
        self.predictions = self._predicted("test")
        if self.keep_predictions is not None and self.trainer.is_global_zero:
            self.keep_predictions(self.predictions)
        self.scores, self.failed_scores = score_all(self.predictions, self.task.scored_with)
        self._log({f"test/{name}": each.value for name, each in self.scores.items()})

    def predict_step(self, batch: Batch, batch_index: int) -> list[Prediction]:
        """Generate."""
        return self.predict(batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add all that `load_from_checkpoint` needs beside the weights, as plain values and tensors."""
        checkpoint["encdec_lightning"] = {
            "model": self.model.config.to_dict(),
            "generation_config": self.model.generation_config.to_dict(),
            "tokenizers": pack_folder(self.tokenizers.save_pretrained),
            "task": asdict(self.task),
            "training": asdict(self.training_options),
            self.options_name: asdict(getattr(self, self.options_name)),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise `UserError` for a checkpoint of another model, before a fit goes on from it."""
        prepare_to_resume(self, checkpoint)

    @classmethod
    def _rebuilt(
        cls, path: str | Path, map_location: torch.device | str, task: Task | None, options: object | None
    ) -> Self:
        """A module from a checkpoint alone; what is given replaces the task and the options of the training."""
        checkpoint = load_checkpoint(path, "cpu")
        kept = checkpoint["encdec_lightning"]
        if cls.options_name not in kept:
            expected = f"it is no checkpoint of a {cls.__name__}, for it does not say its {cls.options_name}"
            raise UserError("checkpoint", str(path), expected)
        if not isinstance(kept[cls.options_name], dict):
            expected = f"its encdec_lightning.{cls.options_name} is no mapping, another program wrote it"
            raise UserError("checkpoint", str(path), expected)
        with taken_from(path, "model"):
            check_values("model", str(path), kept["model"])
            model = rebuild(kept["model"])
            model.generation_config = type(model.generation_config).from_dict(kept["generation_config"])
        with taken_from(path, "tokenizers"):
            tokenizers = unpack_folder(kept["tokenizers"], Tokenizers.load)
        with taken_from(path, "options"):
            task, training = task or Task(**kept["task"]), Training.of(kept["training"])
            options = options or cls.options_class(**kept[cls.options_name])
        module = cls(model, tokenizers, task, training, options)  # type: ignore[arg-type]
        check_fit(path, module, checkpoint["state_dict"])
        dtypes = {each.dtype for each in checkpoint["state_dict"].values() if each.is_floating_point()}
        if len(dtypes) == 1:  # of a training in bf16-true, 16-true or 64-true
            module.to(*dtypes)
        module.load_state_dict(checkpoint["state_dict"])
        return module.to(map_location)

    def on_fit_start(self) -> None:
        """Refuse a Trainer that this module and its data cannot be right with; forget a fit before."""
        check_trainer(self.trainer)
        check_targets(self, self.model.scores_sentences)
        self._step_losses = []

    def configure_model(self) -> None:
        """Make the model ready, as the options and the strategy say."""
        arrange(self.model, self.training_options, self.device_mesh)

    def configure_callbacks(self) -> list[lightning.Callback]:
        """Whatever Trainer fits this module, a step that is not finite ends the fit."""
        return [self._finite]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer says, also with a fused optimizer in bf16; see `clip`."""
        clip(self, optimizer, gradient_clip_val, gradient_clip_algorithm, self._finite.norm)

    def configure_optimizers(self) -> Any:
        """The optimizer over groups of parameters, and each group's schedule, stepped every optimizer step."""
        fresh = [*self.model.config.fresh_parameters, *factors(self.model)]
        groups = parameter_groups(self.model, self.training_options, fresh)
        steps, width = self.total_steps(), self.model.width
        factors_of = [schedule(self.training_options, steps, width, group.pop("warmup_steps")) for group in groups]
        optimizer = self._optimizer_factory(groups)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors_of)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def total_steps(self) -> int:
        """Optimizer steps of the fit, 0 where nothing bounds them; Lightning's estimate would drop a loader's state."""
        data: Any = getattr(self.trainer, "datamodule", None)
        steps, epochs = self.trainer.max_steps, self.trainer.max_epochs
        bounds = [int(steps)] if steps > 0 else []
        if epochs and epochs > 0 and hasattr(data, "updates_per_epoch"):
            bounds.append(int(epochs * data.updates_per_epoch()))
        if bounds:
            return min(bounds)
        name = self.training_options.schedule
        if not SCHEDULES[name].needs_steps:
            return 0
        expected = f"a {name} schedule needs a number of steps or epochs"
        raise UserError("Trainer.max_steps", self.trainer.max_steps, expected)

    def _predicted(self, stage: str) -> list[Prediction]:
        """Generate for the batches that wait; the predictions of all ranks, each id once, in their file's order."""
        batches, self._waiting = self._waiting, []
        count = sum(batch.examples for batch in batches)
        started = time.perf_counter()
        with self.trainer.precision_plugin.forward_context():
            own = list(watched(self.trainer, self.predict_all(batches), "generating", count, "texts"))
        places = {pair.id: at for batch in batches for pair, at in zip(batch.pairs, batch.numbers, strict=False)}
        parts = self._gather((own, time.perf_counter() - started, places))
        by_id = {each.id: each for part, *_ in parts for each in part}
        if by_id:
            self._log({f"{stage}/texts_per_second": len(by_id) / max(seconds for _, seconds, _ in parts)})
        order = {key: at for *_, places in parts for key, at in places.items()}  # none of batches made elsewhere
        return sorted(by_id.values(), key=lambda each: (order.get(each.id, 0), each.id))

    def _log(self, values: dict[str, Any], **options: Any) -> None:
        """Log, unless the Trainer works without all that could slow it down."""
        if not self.trainer.barebones:
            self.log_dict(values, **options)

    def _gather(self, value: Any) -> list[Any]:
        """The value of every rank."""
        if self.trainer.world_size == 1:
            return [value]
        parts: list[Any] = [None] * self.trainer.world_size
        distributed.all_gather_object(parts, value)
        return parts
