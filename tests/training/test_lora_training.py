"""A fit with LoRA: pretrained weights stay bit for bit, checkpoints go on exactly, what is generated is what is exported."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import lightning
import pytest
import tiny
import torch
from test_fast_loss import a_batch, gradients
from test_resume import SaveAt, Trace

from encdec_lightning import Generation, Loading, Seq2SeqDataModule, Seq2SeqModule, Task, Tokenizers, Training, compose
from encdec_lightning.cli.check import main as check
from encdec_lightning.cli.evaluate import main as evaluate
from encdec_lightning.cli.train import main
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.lora import factors, is_factor, merged
from encdec_lightning.composition.model import EncoderDecoder
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.kernels.attention_interface import use_attention
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.run import Run
from encdec_lightning.training.callbacks.random_state import RandomState
from encdec_lightning.training.freezing import freeze
from encdec_lightning.training.lora import add_lora
from encdec_lightning.training.loss import TrainingLoss, token_losses
from encdec_lightning.training.options import Lora, Sides

STEPS = 8
LORA = Lora(rank=4, alpha=8.0, dropout=0.1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> str:
    return tiny.family_checkpoint(tmp_path_factory.mktemp("lora") / "llama", "llama")


def fit(files, llama, callbacks, ckpt=None, **more):
    """A bert that a language model reads, adapted; the module after a fit, and its losses."""
    lightning.seed_everything(3, verbose=False)
    tokenizers = Tokenizers.from_pretrained(files.bert, llama)
    task = Task(train=files.train, validation=files.validation, test=files.test, source="document", target="summary",
                id="key", max_source_length=40, max_target_length=12)  # fmt: skip
    model = compose(files.bert, llama, dropout=0.1, tokenizers=tokenizers)
    training = Training(learning_rate=5e-3, schedule="constant", lora=LORA, **more)
    module = Seq2SeqModule(model, tokenizers, task, training, Generation(max_length=8, num_beams=2))
    start, trace = {name: value.clone() for name, value in module.state_dict().items()}, Trace()
    runner = lightning.Trainer(
        max_steps=STEPS, accelerator="cpu", callbacks=[RandomState(), trace, *callbacks], use_distributed_sampler=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, logger=False,
    )  # fmt: skip
    data = Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=400))
    runner.fit(module, data, ckpt_path=ckpt, weights_only=True)
    return module, start, trace.losses, (runner, data)


@pytest.fixture(scope="module")
def fitted(files, llama, tmp_path_factory):
    save = SaveAt(tmp_path_factory.mktemp("lora") / "at.ckpt", 3)
    return *fit(files, llama, [save]), save


def test_what_checkpoints_gave_stays_and_the_rest_learns(fitted):
    module, start, losses, _, _ = fitted
    fresh = {f"model.{name}" for name in module.model.config.fresh_parameters}
    assert any("cross_attention" in name for name in fresh)
    for name, value in module.state_dict().items():
        learns = name in fresh or is_factor(name)
        assert torch.equal(value, start[name]) != learns, name
    assert all(math.isfinite(loss) for loss in losses)


def test_a_fit_that_goes_on_ends_as_one_that_never_stopped(fitted, files, llama):
    module, _, losses, _, save = fitted
    again, _, rest, _ = fit(files, llama, [], ckpt=save.path)
    assert rest == losses[save.batches :] and len(rest) > 0
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in module.state_dict().items())


def test_a_checkpoint_alone_gives_the_module_its_texts_and_its_export(fitted, tmp_path):
    module, _, _, (runner, data), _ = fitted
    runner.save_checkpoint(tmp_path / "end.ckpt")
    opened = Seq2SeqModule.load_from_checkpoint(tmp_path / "end.ckpt")
    assert opened.training_options == module.training_options
    assert all(torch.equal(value, opened.state_dict()[name]) for name, value in module.state_dict().items())
    opened.export(tmp_path / "model")
    plain = EncoderDecoder.from_pretrained(tmp_path / "model")
    assert not any(map(is_factor, plain.state_dict()))
    batch = next(iter(data.test_dataloader()))
    given = {"input_ids": batch.source_ids, "attention_mask": batch.source_mask}
    with torch.no_grad():
        logits = [
            model.eval()(**given, decoder_input_ids=batch.decoder_input_ids).logits for model in (opened.model, plain)
        ]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)
    texts = opened.tokenizers.decode([row[1:] for row in plain.generate(**given).tolist()])
    assert texts == [each.prediction for each in opened.predict(batch)]


@pytest.mark.parametrize("weights", ["tied", "untied"])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_fast_loss_has_the_gradients_of_the_plain_one(files, weights, bf16):
    torch.manual_seed(0)
    model = compose(files.bert, files.bert, weights, dropout=0.0)
    add_lora(model, Lora(rank=4))
    freeze(model, None)
    use_attention(model)
    for name in factors(model):
        torch.nn.init.normal_(model.get_parameter(name), std=0.2)
    model.train()
    batch, tolerance = a_batch(), 3e-2 if bf16 else 1e-5
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses = token_losses(model, batch).sum(), TrainingLoss(model)(batch)
    slow, fast = (gradients(model, loss) for loss in losses)
    assert slow.keys() == fast.keys() == {name for name, each in model.named_parameters() if each.requires_grad}
    assert set(factors(model)) < slow.keys()
    apart = sum((fast[name] - value).square().sum() for name, value in slow.items()) ** 0.5
    assert apart <= tolerance * sum(value.square().sum() for value in slow.values()) ** 0.5


def test_gradient_checkpointing_changes_nothing(files, llama, fitted):
    """Beside dropout, whose random numbers are others then."""
    found = []
    for on in (False, True):
        torch.manual_seed(0)
        model = compose(files.bert, llama, dropout=0.0).train()
        add_lora(model, Lora(rank=4))
        freeze(model, None)
        for name in factors(model):
            torch.nn.init.normal_(model.get_parameter(name), std=0.2)
        tiny.checkpoint_activations(model, on)
        found.append(gradients(model, token_losses(model, a_batch()).sum()))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("sides", "part", "encoder", "decoder"),
    [
        ("both", None, "lora", "lora"),
        ("decoder", None, "whole", "lora"),
        ("decoder", "encoder", "nothing", "lora"),
        ("encoder", "decoder", "lora", "nothing"),
        ("decoder", "pretrained", "nothing", "lora"),
    ],
)
def test_sides_and_freeze_add_up(files, llama, sides: Sides, part, encoder, decoder):
    model = compose(files.bert, llama)
    training = Training(freeze=part, lora=Lora(rank=2, sides=sides))
    add_lora(model, training.lora)
    freeze(model, training.freeze)
    fresh = set(model.config.fresh_parameters)
    for name, parameter in model.named_parameters():
        way = {"encoder": encoder, "decoder": decoder}[name.partition(".")[0]]
        learns = way == "whole" or (way == "lora" and (name in fresh or is_factor(name)))
        assert parameter.requires_grad == learns, name


def refused(call) -> str:
    with pytest.raises((UserError, UserErrors)) as raised:
        call()
    return str(raised.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["training.lora.rank=0"], "training.lora.rank is 0: it must be at least 1, or null for no LoRA"),
        (["training.lora.alpha=3"], "training.lora.alpha is 3.0: without training.lora.rank there is no LoRA"),
        (["training.lora.rank=4", "training.lora.dropout=1"], "training.lora.dropout is 1.0: it must lie in [0, 1)"),
        (["training.lora.rank=4", "training.lora.sides=all"], "it must be one of both, encoder, decoder"),
        (["training.lora.rnak=4"], "there is no such option in training.lora (did you mean 'rank'?)"),
        (["training.lora.rank=33"], "training.lora.rank is 33: a weight that it is added to has rank 32 at most"),
        (["training.lora=5"], "training.lora"),
        (
            ["training=lora", "training.freeze=decoder"],
            "training.freeze is 'decoder': training.lora trains that side, so that training.lora.sides must be the other",
        ),
        (
            ["training=lora", "training.lora.sides=decoder", "variant=bertshare"],
            "training.lora.sides is 'decoder': the sides share what it is added to (model.weights=tied), it must be both",
        ),
        (
            ["training=lora", "variant=bert2rnd"],
            "training.lora.sides is 'both': no linear layer of the decoder's attention starts as a checkpoint has it",
        ),
        (
            ["training=lora", "training.lora.sides=encoder", "variant=gpt"],
            "training.lora.sides is 'encoder': a decoder alone has no encoder",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_before_the_run(files, in_tmp, capsys, options, sentence):
    assert main(files.overrides(*options, "folder=run")) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (in_tmp / "run").exists()


def test_a_model_is_adapted_once(files):
    model: ComposedModel = compose(files.bert, files.bert)
    add_lora(model, LORA)
    assert "the model has LoRA's factors already" in refused(lambda: add_lora(model, LORA))


def test_a_run_from_the_command_line_and_runs_from_its_weights(files, in_tmp, capsys):
    """LoRA over tied sides; then LoRA again, and without, from what it has learnt."""
    base = files.overrides("variant=bertshare", "training.learning_rate=1e-2", "training.schedule=constant")
    assert main([*base, "training=lora", "folder=first"]) == 0, capsys.readouterr().err
    assert "for LoRA" in capsys.readouterr().err
    run = Run.open("first")
    predictions = run.predictions()
    assert evaluate(["run=first"]) == 0 and Run.open("first").predictions() == predictions
    assert (
        "- LoRA beside attention's weights (rank 16, alpha 32, dropout 0.05), merged"
        in (run.model / "README.md").read_text()
    )
    exported = EncoderDecoder.from_pretrained("first/model")
    assert run.metrics()["parameters"] == sum(each.numel() for each in exported.parameters())
    learnt = merged(Seq2SeqModule.load_from_checkpoint(run.best_or_last()).model).state_dict()
    assert all(torch.equal(value, learnt[name]) for name, value in exported.state_dict().items())
    for folder, more in (("again", ["training=lora"]), ("whole", [])):
        still = ["init_from=first", "training.learning_rate=1e-30", f"folder={folder}"]
        assert main([*base, *more, *still]) == 0, capsys.readouterr().err
        state = EncoderDecoder.from_pretrained(f"{folder}/model").state_dict()
        assert all(torch.equal(value, state[name]) for name, value in learnt.items() if name in state)


def test_check_counts_what_is_trained(files, capsys):
    options = files.overrides("variant=bertshare")

    def found(*more: str):
        assert check([*options, *more, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    plain, lora = found(), found("training.lora.rank=4", "precision=fp32")
    assert lora["parameters"] == plain["parameters"]
    factors_each = 4 * (tiny.WIDTH + tiny.WIDTH)
    assert lora["trained"]["lora"] == 2 * 4 * factors_each
    assert lora["trained"]["total"] == lora["parameters"]["as_built"]["random"] + lora["trained"]["lora"]
    assert plain["trained"] == {"total": plain["parameters"]["as_built"]["total"], "lora": 0}
    memory = lora["memory"]["1 device"]
    assert memory["gradients"] == 4 * lora["trained"]["total"]
    assert memory["weights"] == plain["memory"]["1 device"]["weights"] + 4 * lora["trained"]["lora"]
    assert check([*options, "training.lora.rank=4"]) == 0
    said = capsys.readouterr().out
    assert f"{lora['trained']['total']:,} parameters are trained" in said


def test_options_of_before_and_of_now_are_read(files):
    config = compose_config(files.overrides("training=lora"))
    assert config.training.lora == Lora(rank=16, alpha=32.0, dropout=0.05)
    assert Training.of({"learning_rate": 1e-3}).lora == Lora()
    assert asdict(Training())["lora"] == {"rank": None, "alpha": 16.0, "dropout": 0.0, "sides": "both"}
