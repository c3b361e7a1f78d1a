"""The encoder's own learning rate and warm-up: one optimizer over groups does what two do."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import tiny
import torch

from encdec_lightning import Loading, Seq2SeqDataModule, Seq2SeqModule, Task, Tokenizers, UserError, UserErrors, compose
from encdec_lightning.cli.check import main as inspect
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.training.freezing import freeze
from encdec_lightning.training.optimizers import parameter_groups
from encdec_lightning.training.options import Training

STEPS = 6
ADAM = functools.partial(torch.optim.Adam, eps=1e-2)  # keys' biases have no gradient but rounding, which must not count


@pytest.fixture
def task(tmp_path: Path) -> Task:
    rows = str(tiny.write_rows(tmp_path / "rows.jsonl", tiny.pairs(40)))
    return Task(train=rows, validation=rows, source="document", target="summary",
                max_source_length=40, max_target_length=12)  # fmt: skip


def batches_of(task: Task, tokenizers: Tokenizers) -> list[Batch]:
    data = Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=300))
    return [*data.train_dataloader()][:STEPS]


@pytest.mark.parametrize("weights", ["untied", "tied_embeddings"])
def test_a_fit_with_rates_of_its_own_is_that_of_two_adams(files, task, weights):
    """Liu & Lapata, section 3.2: rate * min(t^-0.5, t * warmup^-1.5) for each side, two optimizers."""
    import lightning

    tokenizers = Tokenizers.from_pretrained(files.bert)

    def model():
        torch.manual_seed(0)
        return compose(files.bert, files.bert, weights, decoder_init="random", dropout=0.0, tokenizers=tokenizers)

    rates, warmups = {"encoder": 2e-3, "decoder": 0.1}, {"encoder": 4, "decoder": 2}
    training = Training(
        encoder_learning_rate=rates["encoder"] * warmups["encoder"] ** -0.5, encoder_warmup_steps=warmups["encoder"],
        learning_rate=rates["decoder"] * warmups["decoder"] ** -0.5, warmup_steps=warmups["decoder"],
        schedule="inverse_sqrt",
    )  # fmt: skip
    module = Seq2SeqModule(model(), tokenizers, task, training, optimizer=ADAM)
    runner = lightning.Trainer(max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False,
                               enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0)  # fmt: skip
    runner.fit(module, Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=300)))

    plain = model().train()
    sides: dict[str, list[torch.nn.Parameter]] = {"encoder": [], "decoder": []}
    for name, parameter in plain.named_parameters():
        sides["encoder" if name.startswith("encoder.") else "decoder"].append(parameter)
    optimizers = {side: ADAM(parameters, lr=0.0) for side, parameters in sides.items()}
    for step, batch in enumerate(batches_of(task, tokenizers), start=1):
        output = plain(
            input_ids=batch.source_ids, attention_mask=batch.source_mask, decoder_input_ids=batch.decoder_input_ids
        )
        mask = batch.target_mask
        torch.nn.functional.cross_entropy(output.logits[mask], batch.target_ids[mask]).backward()
        for side, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = rates[side] * min(step**-0.5, step * warmups[side] ** -1.5)
            optimizer.step()
            optimizer.zero_grad()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(module.model.state_dict()[name], value, rtol=1e-3, atol=2e-5, msg=name)


def test_groups_of_the_encoder(files):
    model = compose(files.bert, files.gpt2, cross_attention_init="random")
    fresh = model.config.fresh_parameters
    training = Training(learning_rate=1e-3, fresh_learning_rate=5e-3, encoder_learning_rate=1e-4, warmup_steps=2,
                        encoder_warmup_steps=7)  # fmt: skip
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, training, fresh)
    assert sum(len(group["params"]) for group in groups) == len(names)
    for group in groups:
        for each in group["params"]:
            name = names[id(each)]
            side = 1e-4 if name.startswith("encoder.") else 1e-3
            assert group["lr"] == (5e-3 if name in fresh else side)
            assert group["warmup_steps"] == (7 if name.startswith("encoder.") else 2)


@pytest.mark.parametrize("option", [{"encoder_learning_rate": 1e-4}, {"encoder_warmup_steps": 3}])
def test_without_an_encoder_that_is_trained_its_options_are_refused(files, option):
    (name,) = option
    sentence = f"training.{name} is {option[name]!r}: no encoder is trained; leave it away."
    with pytest.raises(UserError) as told:
        parameter_groups(compose(None, files.gpt2), Training(**option), ())
    assert str(told.value) == sentence
    for part in ("encoder", "all_but_cross_attention"):
        frozen = compose(files.bert, files.gpt2)
        freeze(frozen, part)
        with pytest.raises(UserError, match="no encoder is trained"):
            parameter_groups(frozen, Training(**option), ())


def test_encdec_check_says_so_before_anything_is_loaded(files, capsys):
    for more in (["variant=gpt"], ["variant=bert2bert", "training.freeze=encoder"],
                 ["variant=bert2gpt", "training.freeze=pretrained"]):  # fmt: skip
        assert inspect([*files.overrides(), *more, "training.encoder_learning_rate=1e-4"]) == 2
        assert "training.encoder_learning_rate is 0.0001: no encoder is trained" in capsys.readouterr().err
    assert inspect([*files.overrides(), "variant=bert2bert", "training.encoder_learning_rate=1e-4"]) == 0


def test_values_that_make_no_sense():
    with pytest.raises(UserErrors, match=r"encoder_learning_rate is 0\.0: it must be above 0"):
        Training(encoder_learning_rate=0.0)
    with pytest.raises(UserErrors, match="encoder_warmup_steps is -1: it must not be negative"):
        Training(encoder_warmup_steps=-1)
    with pytest.raises(UserErrors, match="encoder_warmup_steps is 0: it must be at least 1 with inverse_sqrt"):
        Training(encoder_warmup_steps=0, warmup_steps=5, schedule="inverse_sqrt")
    assert Training(encoder_warmup_steps=0).encoder_warmup_steps == 0
