"""The peer: Hugging Face's `Seq2SeqTrainer` around `EncoderDecoderModel`; prints one line of figures.

`python experiments/speed/peer.py FOLDER default|grouped [--attention eager] [--compile]`, after
`pip install accelerate`.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import setting
import torch
import transformers
from torch import Tensor
from transformers import EncoderDecoderModel, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback


class Collate:
    """Pad on the right; -100 where there is no target."""

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        pad = torch.nn.utils.rnn.pad_sequence
        source = [torch.tensor(each["input_ids"]) for each in examples]
        labels = [torch.tensor(each["labels"]) for each in examples]
        mask = pad([torch.ones_like(each) for each in source], batch_first=True)
        return {"input_ids": pad(source, batch_first=True), "attention_mask": mask,
                "labels": pad(labels, batch_first=True, padding_value=-100)}  # fmt: skip


class Ticks(TrainerCallback):
    """Tells the clock of updates."""

    def __init__(self, clock: setting.Clock) -> None:
        self.clock = clock

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.update()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    setting.add_arguments(parser)
    parser.add_argument("sampling", choices=("default", "grouped"))
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--losses", action="store_true", help="log each update's, which takes time")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    started = setting.memory("VmRSS")
    checkpoint = str(options.folder / "checkpoint")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    pairs = []
    for pair in setting.read_pairs(options.folder):
        source = tokenizer(pair["source"], truncation=True, max_length=options.source)["input_ids"]
        target = tokenizer(pair["target"], add_special_tokens=False)["input_ids"][: options.target - 1]
        target.append(tokenizer.sep_token_id)
        pairs.append({"input_ids": source, "labels": target, "length": len(source)})
    torch.manual_seed(options.seed)
    attention = {f"{side}_attn_implementation": options.attention for side in ("encoder", "decoder")}
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(checkpoint, checkpoint, **attention)
    model.config.pad_token_id, model.config.decoder_start_token_id = tokenizer.pad_token_id, tokenizer.cls_token_id
    clock = setting.Clock(options.warm_up, options.updates)

    def count(module: Any, args: Any, given: dict[str, Tensor]) -> None:
        clock.count(int(given["attention_mask"].sum()), int((given["labels"] != -100).sum()), len(given["labels"]))

    model.register_forward_pre_hook(count, with_kwargs=True)
    with tempfile.TemporaryDirectory() as output:
        arguments = Seq2SeqTrainingArguments(
            output_dir=output,
            per_device_train_batch_size=setting.PAIRS,
            train_sampling_strategy="group_by_length" if options.sampling == "grouped" else "random",
            bf16=options.precision == "bf16",
            optim="adamw_torch_fused",
            learning_rate=setting.RATE,
            max_grad_norm=setting.CLIP,
            max_steps=options.warm_up + options.updates,
            torch_compile=options.compile,
            seed=options.seed,
            logging_strategy="steps" if options.losses else "no",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Seq2SeqTrainer(
            model, arguments, data_collator=Collate(), train_dataset=pairs, callbacks=[Ticks(clock)]
        )
        with setting.operators(options.operators):
            trainer.train()
        clock.losses += [each["loss"] for each in trainer.state.log_history if "loss" in each]
    clock.report(
        parameters=sum(each.numel() for each in model.parameters()),
        trained=sum(each.numel() for each in model.parameters()),
        started=started,
    )


if __name__ == "__main__":
    setting.quiet()
    main()
