"""Extracts learnt and made: the loss by hand, exact updates, checkpoints, and the sentences that are chosen."""

from __future__ import annotations

import warnings
from pathlib import Path

import lightning
import pytest
import tiny
import torch
from cases import some
from torch.nn import functional
from transformers import EncoderDecoderModel

from encdec_lightning import (
    Extraction,
    ExtractiveDataModule,
    ExtractiveModule,
    Loading,
    Seq2SeqDataModule,
    Seq2SeqModule,
    Task,
    Tokenizers,
    Training,
    UserError,
    compose,
)
from encdec_lightning.evaluation.extraction import choose
from encdec_lightning.training import arrange
from encdec_lightning.training.callbacks.random_state import RandomState
from encdec_lightning.training.flops import training_flops
from encdec_lightning.training.fsdp import layer_groups


def parts(
    files: tiny.Files, accumulate: int = 1, dropout: float = 0.0, training: Training | None = None, **options: object
) -> tuple[ExtractiveModule, ExtractiveDataModule]:
    tokenizers = Tokenizers.from_pretrained(files.bert, sentences="en")
    task = Task(train=files.train, validation=files.validation, test=files.test, source="document", target="summary",
                id="key", max_source_length=40, max_target_length=12)  # fmt: skip
    torch.manual_seed(0)
    marked = dict(encoder_sentences="en", encoder_segments="interval", dropout=dropout)
    model = compose(files.bert, None, **marked, tokenizers=tokenizers)  # type: ignore[arg-type]
    extraction = Extraction(**{"sentences": 1, "oracle_sentences": 1, **options})  # type: ignore[arg-type]
    module = ExtractiveModule(model, tokenizers, task, training or Training(learning_rate=1e-3), extraction)
    loading = Loading(batch_tokens=200 // accumulate, accumulate=accumulate)
    return module, ExtractiveDataModule(task, tokenizers, loading, extraction)


def trainer(folder: Path, **arguments: object) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    defaults = {"max_steps": 4, "enable_checkpointing": False, "use_distributed_sampler": False}
    return lightning.Trainer(default_root_dir=folder, **{**quiet, **defaults, **arguments})  # type: ignore[arg-type]


def test_the_loss_is_a_yes_or_no_for_each_sentence(files):
    module, data = parts(files)
    module.eval()
    for smoothing in (0.0, 0.2):
        for batch in data.test_dataloader():
            total, count = module.loss(batch, smoothing)
            logits = module.model(batch.source_ids, batch.source_mask).logits
            expected = 0.0
            for row, length in enumerate(batch.lengths[:, 1].tolist()):
                for at in range(length):
                    wanted = float(batch.target_ids[row, at]) * (1 - smoothing) + smoothing / 2
                    probability = logits[row, at].sigmoid()
                    expected += functional.binary_cross_entropy(probability, torch.tensor(wanted)).item()
            assert count == int(batch.lengths[:, 1].sum()) and abs(total.item() - expected) < 1e-4


def test_it_learns_which_sentence_says_the_summary(files, tmp_path: Path):
    lightning.seed_everything(1, verbose=False)
    module, data = parts(files, training=Training(learning_rate=3e-3))
    runner = trainer(tmp_path, max_steps=60)
    module.eval()
    before = mean_loss(module, data)
    module.train()
    runner.fit(module, data)
    assert mean_loss(module.eval(), data) < 0.2 < 0.4 < before
    runner.test(module, data, verbose=False)
    assert module.scores["rouge1"].value > 40 and "val/perplexity" not in runner.callback_metrics
    for each in module.predictions:
        assert each.prediction in each.source and len(each.prediction.splitlines()) == 1


def mean_loss(module: ExtractiveModule, data: ExtractiveDataModule) -> float:
    with torch.no_grad():
        losses = [module.loss(batch) for batch in data.test_dataloader()]
    return sum(total.item() for total, _ in losses) / sum(count for _, count in losses)


def test_the_logged_loss_is_the_mean_over_all_sentences_of_an_update(files, tmp_path: Path):
    module, data = parts(files, accumulate=2)
    plan = data._training_plan(0)
    members = [number for position in range(2) for number in plan.batch(position, 0)[0].tolist()]
    sentences = sum(int(data.examples("train").lengths[number][1]) for number in members)
    assert plan.batch(0, 0)[1] == plan.batch(1, 0)[1] == sentences
    first = [batch for _, batch in zip(range(2), data.train_dataloader(), strict=False)]
    expected = sum(module.loss(batch)[0].item() for batch in first) / sentences
    runner = trainer(tmp_path, max_steps=1, accumulate_grad_batches=2)
    runner.fit(module, data)
    assert abs(float(runner.callback_metrics["train/loss"]) - expected) < 1e-5


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_do_not_depend_on_micro_batches(files, accumulate):
    module, data = parts(files)
    module.eval()
    (whole, *_) = list(data.train_dataloader())
    total, count = module.loss(whole)
    (total / count).backward()
    expected = {name: each.grad.clone() for name, each in module.named_parameters()}
    module.zero_grad()
    order = torch.arange(whole.examples)
    for part in order.chunk(accumulate):
        (module.loss(whole.select(part))[0] / count).backward()
    for name, each in module.named_parameters():
        assert torch.allclose(each.grad, expected[name], atol=1e-5), name


def test_extracts_are_those_of_the_scores_and_blocking(files):
    module, data = parts(files, sentences=2)
    module.eval()
    for batch in data.test_dataloader():
        logits = module.model(batch.source_ids, batch.source_mask).logits
        tokenizer = module.tokenizers.source_in_bulk
        for row, (pair, (text, score)) in enumerate(zip(batch.pairs, module.extracts(batch), strict=True)):
            sentences = tokenizer.sentences([pair.source])[0][: int(batch.lengths[row, 1])]
            scores = logits[row, : len(sentences)].sigmoid().tolist()
            chosen = choose(sentences, scores, 2)
            assert text == "\n".join(sentences[each] for each in chosen)
            assert abs(score - sum(scores[each] for each in chosen) / len(chosen)) < 1e-6


def test_a_fit_that_goes_on_ends_equal_and_a_checkpoint_holds_all(files, tmp_path: Path):
    def fit(ckpt: Path | None, folder: str, **arguments: object) -> ExtractiveModule:
        lightning.seed_everything(3, verbose=False)
        module, data = parts(files, dropout=0.1)
        runner = trainer(tmp_path / folder, callbacks=[RandomState()], max_steps=6, **arguments)
        runner.fit(module, data, ckpt_path=ckpt, weights_only=True)
        if ckpt is None:
            runner.save_checkpoint(tmp_path / folder / "end.ckpt")
        return module

    class Save(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *rest: object) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    lightning.seed_everything(3, verbose=False)
    module, data = parts(files, dropout=0.1)
    runner = trainer(tmp_path, callbacks=[RandomState(), Save()], max_steps=6)
    runner.fit(module, data)
    again = fit(tmp_path / "middle.ckpt", "again")
    for (name, one), other in zip(module.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    opened = ExtractiveModule.load_from_checkpoint(tmp_path / "middle.ckpt")
    assert opened.extraction == module.extraction and opened.task == module.task
    more = ExtractiveModule.load_from_checkpoint(tmp_path / "middle.ckpt", extraction=Extraction(sentences=2))
    assert more.extraction.sentences == 2
    with pytest.raises(UserError, match="no checkpoint of a Seq2SeqModule"):
        Seq2SeqModule.load_from_checkpoint(tmp_path / "middle.ckpt")


def test_the_other_module_is_named(files):
    module, _ = parts(files)
    with pytest.raises(UserError, match="use an ExtractiveModule"):
        Seq2SeqModule(module.model, module.tokenizers, module.task)
    stock = EncoderDecoderModel.from_encoder_decoder_pretrained(files.bert, files.bert)
    for kind in (Seq2SeqModule, ExtractiveModule):
        with pytest.raises(UserError, match="it must be a composed model"):
            kind(stock, module.tokenizers, module.task)
    pair = compose(files.bert, files.bert)
    with pytest.raises(UserError, match="use null"):
        ExtractiveModule(pair, Tokenizers.from_pretrained(files.bert), module.task)


def test_data_of_the_other_kind_are_refused_by_either_module(files, tmp_path: Path):
    module, data = parts(files)
    tokens = Seq2SeqDataModule(data.task, data.tokenizers, data.loading)
    with pytest.raises(UserError, match="ExtractiveModule, needs an ExtractiveDataModule"):
        trainer(tmp_path, max_steps=1).fit(module, tokens)
    writer = Seq2SeqModule(compose(files.bert, files.bert), Tokenizers.from_pretrained(files.bert), data.task)
    with pytest.raises(UserError, match="Seq2SeqModule, needs a Seq2SeqDataModule"):
        trainer(tmp_path, max_steps=1).fit(writer, data)


@pytest.mark.parametrize("option", some(["gradient_checkpointing", "compile"], "gradient_checkpointing"))
def test_layers_that_are_computed_again_or_compiled(
    files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
):
    monkeypatch.setattr(arrange, "BACKEND", "aot_eager")
    module, data = parts(files, dropout=0.1, training=Training.of({option: True}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its compiler
        trainer(tmp_path, max_steps=1).fit(module, data)
    again = [layer.gradient_checkpointing for layer in module.model.encoder.encoder.layer]
    assert again == [option == "gradient_checkpointing"] * tiny.LAYERS
    compiled = [layer._compiled_call_impl is not None for group in layer_groups(module.model) for layer in group]
    assert compiled == [option == "compile"] * (tiny.LAYERS + 2)  # and those above the sentences


def test_layers_of_both_sides_are_computed_again_and_compiled_where_that_is_asked(files, monkeypatch):
    monkeypatch.setattr(arrange, "BACKEND", "eager")
    model = compose(files.bert, files.bert)
    layers = [layer for group in layer_groups(model) for layer in group]
    arrange.arrange(model, Training(), None)
    assert not any(layer._compiled_call_impl or layer.gradient_checkpointing for layer in layers)
    arrange.arrange(model, Training(compile=True, gradient_checkpointing=True), None)
    assert len(layers) == 2 * tiny.LAYERS
    assert all(layer._compiled_call_impl and layer.gradient_checkpointing for layer in layers)


def test_operations_are_those_of_the_matrices_and_of_attention(files):
    module, _ = parts(files)
    model = module.model
    found = training_flops(model)
    encoder = sum(each.numel() for name, each in model.encoder.named_parameters() if each.ndim > 1
                  and "embeddings" not in name)  # fmt: skip
    head = sum(each.numel() for each in model.sentence_head.parameters() if each.ndim > 1)
    assert found.source_token == 6 * encoder and found.target_token == 6 * head and found.cross_pair == 0
    assert found.source_pair == 12 * tiny.WIDTH * tiny.LAYERS and found.target_pair == 2 * 12 * tiny.WIDTH * 2


@pytest.mark.parametrize("options", [{"freeze": "encoder"}, {"lora": {"rank": 2}}, {"encoder_learning_rate": 1e-4}])
def test_freezing_lora_and_rates_of_the_encoder(files, tmp_path: Path, options):
    training = Training.of({"learning_rate": 1e-3, **options})
    module, data = parts(files, training=training)
    before = {name: each.clone() for name, each in module.model.named_parameters()}
    trainer(tmp_path, max_steps=2).fit(module, data)
    changed = {name for name, each in module.model.named_parameters() if not torch.equal(each, before[name])}
    head = {name for name in before if name.startswith("sentence_head.")}
    assert head <= changed
    if "freeze" in options:
        assert changed == head
    if "lora" in options:
        assert any("lora_B" in name for name in changed)
        assert not any(name.startswith("encoder.") and "lora" not in name for name in changed)


@pytest.mark.parametrize("part", ["decoder", "all_but_cross_attention"])
def test_parts_that_are_not_there_cannot_be_frozen(files, part):
    with pytest.raises(UserError, match="an encoder alone has no"):
        parts(files, training=Training(freeze=part))
