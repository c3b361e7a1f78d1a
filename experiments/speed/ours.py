"""Ours: a fit of `Seq2SeqModule` as a user would run it; prints one line of figures.

`python experiments/speed/ours.py FOLDER`.
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import setting

from encdec_lightning import Loading, Seq2SeqDataModule, Seq2SeqModule, Task, Tokenizers, Training, compose
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.launch.garbage import collect_rarely
from encdec_lightning.launch.job.quiet import quiet


class Ticks(lightning.Callback):
    """Tells the clock of batches and updates."""

    def __init__(self, clock: setting.Clock) -> None:
        self.clock, self.loss = clock, 0.0

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Batch, index: int) -> None:
        self.clock.count(int(batch.source_lengths.sum()), int(batch.target_lengths.sum()), batch.examples)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Batch, index: int
    ) -> None:
        self.loss += float(outputs["loss"])  # Lightning has divided it
        if (index + 1) % trainer.accumulate_grad_batches == 0:
            self.clock.update()
            self.clock.losses.append(self.loss)
            self.loss = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    setting.add_arguments(parser)
    parser.add_argument("--batch-tokens", type=int, default=8000)
    parser.add_argument("--without", choices=setting.PARTS)
    parser.add_argument("--freeze", choices=("encoder", "decoder"))
    options = parser.parse_args()
    quiet()
    collect_rarely()  # as the commands do
    if options.without:
        setting.leave_out(options.without)
    started = setting.memory("VmRSS")
    checkpoint = str(options.folder / "checkpoint")
    tokenizers = Tokenizers.from_pretrained(checkpoint, checkpoint)
    pairs = str(options.folder / "pairs.jsonl")
    task = Task(train=pairs, validation=pairs, max_source_length=options.source, max_target_length=options.target)
    loading = Loading(
        update_examples=setting.PAIRS,
        seed=options.seed,
        batch_tokens=options.batch_tokens,
        cache=str(options.folder / "cache"),
    )
    lightning.seed_everything(options.seed, verbose=False)
    model = compose(checkpoint, checkpoint, tokenizers=tokenizers)
    module = Seq2SeqModule(model, tokenizers, task, Training(learning_rate=setting.RATE, freeze=options.freeze))
    data = Seq2SeqDataModule(task, tokenizers, loading)
    clock = setting.Clock(options.warm_up, options.updates)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if options.precision == "bf16" else "32-true",
        max_steps=options.warm_up + options.updates,
        gradient_clip_val=setting.CLIP,
        limit_val_batches=0,
        callbacks=[Ticks(clock)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    with setting.operators(options.operators):
        trainer.fit(module, data)
    clock.report(
        parameters=sum(each.numel() for each in model.parameters()),
        trained=sum(each.numel() for each in model.parameters() if each.requires_grad),
        started=started,
        micro_batches=data.micro_batches,
    )


if __name__ == "__main__":
    setting.quiet()
    main()
