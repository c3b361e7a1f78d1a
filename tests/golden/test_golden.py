"""Twenty steps of four tiny models, pinned. `python tests/golden/test_golden.py` writes the file anew; a change of its
numbers needs a line in CHANGELOG.md."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))

import tiny

from encdec_lightning import Loading, Seq2SeqDataModule, Task, Tokenizers, Training, compose
from encdec_lightning.training.loss import token_losses
from encdec_lightning.training.optimizers import default_optimizer, parameter_groups
from encdec_lightning.training.schedules import schedule

GOLDEN = Path(__file__).with_name("losses.json")
MODELS = {
    "bertshare": ("bert", "bert", {"weights": "tied"}),
    "robertashare": ("roberta", "roberta", {"weights": "tied"}),
    "bert2gpt": ("bert", "gpt2", {}),
    "rnd2bert": ("bert", "bert", {"weights": "tied_embeddings", "encoder_init": "random"}),
}


def losses(files: tiny.Files, name: str) -> list[float]:
    """The loss per token of each of 20 steps, in float64, so that processors agree."""
    encoder, decoder, options = MODELS[name]
    tokenizers = Tokenizers.from_pretrained(getattr(files, encoder), getattr(files, decoder))
    task = Task(train=files.train, validation=files.validation, source="document", target="summary", id="key",
                max_source_length=40, max_target_length=12)  # fmt: skip
    data = Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=300, seed=5))
    torch.manual_seed(7)
    model = compose(getattr(files, encoder), getattr(files, decoder), dropout=0.0, tokenizers=tokenizers, **options)
    model = model.double()
    training = Training(learning_rate=1e-3, fresh_learning_rate=2e-3, warmup_steps=5, weight_decay=0.01)
    optimizer = default_optimizer(parameter_groups(model, training, model.config.fresh_parameters))
    factor = schedule(training, 20, model.config.decoder.hidden_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    loader, trace = data.train_dataloader(), []
    for epoch in range(20):
        loader.set_epoch(epoch)
        for batch in loader:
            loss = token_losses(model, batch, 0.1).sum() / batch.update_tokens
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            trace.append(loss.item())
            if len(trace) == 20:
                return trace
    raise AssertionError("the data are too few for 20 steps")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_losses_are_those_of_the_golden_file(files: tiny.Files, name: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert losses(files, name) == pytest.approx(golden[name], rel=1e-5)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = tiny.write_all(Path(folder))
        GOLDEN.write_text(
            json.dumps({name: losses(made, name) for name in sorted(MODELS)}, indent=1) + "\n", encoding="utf-8"
        )
