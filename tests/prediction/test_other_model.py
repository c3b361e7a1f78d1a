"""`encdec-evaluate model=...`: any model of transformers writes what its own generate writes, and is scored as a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tiny import Files
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from encdec_lightning import Run
from encdec_lightning.cli.evaluate import main
from encdec_lightning.cli.report import main as report
from encdec_lightning.errors import UserError
from encdec_lightning.generation.other_model import OtherModel, Reading, _language_id
from encdec_lightning.prediction import other_model

PAD, START, END = 0, 2, 3


@pytest.fixture(scope="module")
def bart(files: Files, tmp_path_factory) -> str:
    """A bart of random weights, that by its own config writes texts of 12 tokens with two beams."""
    folder = str(tmp_path_factory.mktemp("other") / "bart")
    tokenizer = AutoTokenizer.from_pretrained(files.bert)
    sizes = {f"{side}_{name}": size for side in ("encoder", "decoder")
             for name, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))}  # fmt: skip
    torch.manual_seed(0)
    model = BartForConditionalGeneration(
        BartConfig(vocab_size=len(tokenizer), d_model=32, max_position_embeddings=64, pad_token_id=PAD, init_std=0.3,
                   bos_token_id=START, eos_token_id=END, decoder_start_token_id=START, **sizes)
    )  # fmt: skip
    model.generation_config.num_beams, model.generation_config.max_length = 2, 12
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def task_of(files: Files, *more: str) -> list[str]:
    columns = ("task.source=document", "task.target=summary", "task.id=key", "task.max_target_length=6")
    splits = (f"task.{split}={getattr(files, split)}" for split in ("train", "validation", "test"))
    return [*splits, *columns, "task.max_source_length=40", *more]


def sources(files: Files) -> dict[str, str]:
    rows = map(json.loads, Path(files.test).read_text().splitlines())
    return {row["key"]: row["document"] for row in rows}


def one_by_one(model, tokenizer, texts: dict[str, str], **arguments) -> dict[str, str]:
    """What the model's own generate writes, a source at a time, without padding."""
    found = {}
    for key, text in texts.items():
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=40)["input_ids"]
        mask = torch.ones_like(ids)
        written = model.generate(input_ids=ids, attention_mask=mask, **arguments)[0]
        written = written[ids.shape[1] :] if not model.config.is_encoder_decoder else written
        found[key] = tokenizer.decode(written, skip_special_tokens=True).strip()
    return found


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ([], {}),
        (["generation.num_beams=1", "generation.max_length=5"], {"num_beams": 1, "max_new_tokens": 5}),
        (["generation=beam", "generation.num_beams=3"], {"num_beams": 3}),
        (["generation=greedy"], {"num_beams": 1, "no_repeat_ngram_size": 0}),
    ],
    ids=["its own", "options", "a preset", "a preset of defaults"],
)
def test_a_model_writes_what_its_own_generate_writes(given, arguments, bart, files, in_tmp):
    tokenizer, model = AutoTokenizer.from_pretrained(bart), BartForConditionalGeneration.from_pretrained(bart).eval()
    assert main([f"model={bart}", *task_of(files), "folder=run", *given]) == 0
    run = Run("run")
    if given == ["generation=beam", "generation.num_beams=3"]:
        kept = run.config()["generation"]
        assert kept.pop("num_beams") == 3
        arguments |= {name: value for name, value in kept.items() if name not in ("max_length", "min_length")}
    expected = one_by_one(model, tokenizer, sources(files), **arguments)
    assert {each.id: each.prediction for each in run.predictions()} == expected
    assert len(set(expected.values())) > 1
    assert run.status()["state"] == "finished"
    assert run.metrics()["parameters"] == sum(each.numel() for each in model.parameters())


def test_a_language_model_reads_a_prompt_and_the_text_behind_it_is_scored(files, in_tmp):
    prompt = "graph {source} TL;DR:"
    assert main([f"model={files.gpt2}", *task_of(files), "folder=run", f"prompt={prompt}"]) == 0
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(files.gpt2).eval(),
        AutoTokenizer.from_pretrained(files.gpt2),
    )
    texts = {key: prompt.replace("{source}", text) for key, text in sources(files).items()}
    expected = one_by_one(
        model, tokenizer, {key: text for key, text in texts.items() if len(tokenizer(text)["input_ids"]) <= 40},
        max_new_tokens=6, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    found = {each.id: each.prediction for each in Run("run").predictions()}
    assert len(expected) > 3 and expected.items() <= found.items()


def test_a_long_source_is_cut_as_the_tokenizer_cuts_it_or_before_what_follows_in_the_prompt(bart):
    tokenizer = AutoTokenizer.from_pretrained(bart)
    source = "matrix graph " * 40
    plain = OtherModel.open(bart, Reading(max_source_length=17))
    assert plain.ids(source) == tokenizer(source, truncation=True, max_length=17)["input_ids"]
    within = OtherModel.open(bart, Reading(max_source_length=17, prompt="graph: {source} file path"))
    ids = within.ids(source)
    whole = tokenizer("graph: matrix file path")["input_ids"]
    assert len(ids) == 17 and ids[-3:] == whole[-3:] and ids[:3] == whole[:3]
    assert within.ids("list") == tokenizer("graph: list file path")["input_ids"]


def test_an_interrupted_start_goes_on_and_a_finished_one_is_only_shown(bart, files, in_tmp, monkeypatch, capsys):
    monkeypatch.setattr(other_model, "WINDOW", 5)
    arguments = [f"model={bart}", *task_of(files), "folder=run"]
    texts, seen = OtherModel.texts, []

    def interrupted(self, given, *more):
        given = list(given)
        seen.append(len(given))
        if len(seen) == 2:
            raise KeyboardInterrupt
        yield from texts(self, given, *more)

    monkeypatch.setattr(OtherModel, "texts", interrupted)
    assert main(arguments) == 130
    assert Run("run").status()["state"] == "preempted"
    assert main(arguments) == 0
    assert seen == [5, 5, 5, 2]
    found = Run("run").predictions()
    with monkeypatch.context() as patched:
        patched.setattr(OtherModel, "open", None)
        capsys.readouterr()
        assert main(arguments) == 0
        assert "rouge1" in capsys.readouterr().out
    assert main([*arguments[:-1], "folder=whole"]) == 0
    assert Run("whole").predictions() == found


def test_what_a_scorer_loses_is_made_up_without_the_model(bart, files, in_tmp, monkeypatch):
    """A process that dies while it scores has written all predictions."""
    arguments = [f"model={bart}", *task_of(files), "folder=run"]

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(other_model, "score_all", dies)
        assert main(arguments) == 130
    monkeypatch.setattr(OtherModel, "open", None)
    assert main(arguments) == 0
    metrics = Run("run").metrics()
    assert metrics["test/examples"] == 12 and metrics["parameters"] > 0


@pytest.mark.parametrize("kind", ["of a GPU", "of a processor"])
def test_memory_that_runs_out_halves_the_batch(bart, files, monkeypatch, kind):
    model = OtherModel.open(bart, Reading(max_source_length=40))
    given = list(sources(files).items())
    expected = dict(model.texts(given, {}, 100_000))
    own, sizes = BartForConditionalGeneration.generate, []

    def limited(self, input_ids, **arguments):
        sizes.append(len(input_ids))
        if len(input_ids) > 3:
            if kind == "of a GPU":
                raise torch.OutOfMemoryError
            torch.empty(1 << 50)  # which raises what the processor's allocator does
        return own(self, input_ids=input_ids, **arguments)

    monkeypatch.setattr(BartForConditionalGeneration, "generate", limited)
    assert dict(model.texts(given, {}, 100_000)) == expected
    assert sizes == [12, 6, 3, 3, 6, 3, 3]
    monkeypatch.setattr(BartForConditionalGeneration, "generate", lambda *_, **__: limited(None, torch.zeros(4)))
    with pytest.raises(UserError, match="does not hold the beams of one source"):
        dict(model.texts(given[:1], {}, 100))


def test_the_report_has_the_model_beside_trained_ones_of_the_same_test_set(bart, files, in_tmp, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main([f"model={bart}", *task_of(files), "folder=runs/bart"]) == 0
    assert main([f"model={files.gpt2}", *task_of(files), "folder=runs/gpt2", "dtype=bfloat16"]) == 0
    from encdec_lightning.cli.train import main as train

    assert (
        train(files.overrides("task.id=key", "debug=step", "trainer.limit_test_batches=null", "folder=runs/ours")) == 0
    )
    capsys.readouterr()
    assert report(["runs"]) == 0
    told = capsys.readouterr().out
    assert told.count("Test scores on") == 1
    assert all(word in told for word in ("bart", "gpt2", "bfloat16", "parameters", "rouge1"))
    assert main(["run=runs/bart"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "it holds the texts of a model that was not trained here" in line
    assert "monitor" not in told and "validate" not in told  # a training alone has them


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["prompt=no place"], "prompt is 'no place': it must hold {source} once, where the source stands."),
        (["target_language=xx_XX"], "target_language is 'xx_XX': the model's tokenizer has no such language"),
        (["dtype=int8"], "dtype is 'int8': it must be one of float32, bfloat16, float16."),
        (["task.max_source_length=100"], "task.max_source_length is 100: the model has 64 positions."),
        (["trainer.max_steps=3"], "trainer.max_steps is '3': it does not act with model="),
        (["variant=bertshare"], "variant is 'bertshare': it does not act with model="),
        (["generation.num_return_sequences=2", "generation.num_beams=2"], "one text is scored, give 1"),
        (["promt=x"], "(did you mean 'prompt'?)"),
        (["run=somewhere"], "run is 'somewhere': it does not act with model="),
        (["predictions=x"], "predictions is 'x': it does not act with model="),
    ],
)
def test_what_another_model_cannot_be_asked(arguments, sentence, bart, files, in_tmp, capsys):
    assert main([f"model={bart}", *task_of(files), "folder=run", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("run/predictions/test.jsonl").exists()


def test_texts_that_may_pass_the_end_of_the_positions_are_refused(bart, files, in_tmp, capsys):
    folder = in_tmp / "gpt2"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(files.gpt2)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 45}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert main([f"model={folder}", *task_of(files), "folder=run"]) == 2
    expected = "task.max_target_length is 6: the model has 45 positions, of which a source takes up to 40."
    assert expected in capsys.readouterr().err
    assert main([f"model={bart}", *task_of(files), "folder=run-2", "generation.max_length=65"]) == 2
    assert "task.max_target_length is 65: the model has 64 positions." in capsys.readouterr().err
    assert main([f"model={folder}", *task_of(files), "folder=run-3", "task.max_target_length=5"]) == 0


def test_a_language_is_what_the_tokenizer_calls_so():
    """M2M100's tokens of languages have other names than its codes, which may be words as well."""
    words = {"__fr__": 7, "fr": 3, "en_XX": 5, "<unk>": 0}

    class OfCodes:
        unk_token_id = 0

        def convert_tokens_to_ids(self, token: str) -> int:
            return words.get(token, 0)

    class OfM2M100(OfCodes):
        lang_code_to_token: ClassVar = {"fr": "__fr__"}

    assert _language_id(OfM2M100(), "fr") == 7
    assert _language_id(OfM2M100(), "__fr__") is None is _language_id(OfM2M100(), "de")
    assert (_language_id(OfCodes(), "en_XX"), _language_id(OfCodes(), "xx")) == (5, 0)


def test_models_that_write_no_texts_are_refused(files, in_tmp, capsys):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(files.bert)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    for kind, sentence in ((BertForMaskedLM, "is an encoder's"), (BertForSequenceClassification, "of its weights are")):
        kind(config).save_pretrained(kind.__name__)
        tokenizer.save_pretrained(kind.__name__)
        assert main([f"model={kind.__name__}", *task_of(files), "folder=run"]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["model=nowhere", *task_of(files)]) == 2
    assert main([f"model={files.gpt2}"]) == 2
    assert "task" in capsys.readouterr().err


def test_a_crash_is_a_failure_with_its_reason(bart, files, in_tmp, monkeypatch, capsys):
    def crashes(*_, **__):
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(OtherModel, "texts", crashes)
    with pytest.raises(RuntimeError, match="no kernel"):
        main([f"model={bart}", *task_of(files), "folder=run"])
    status = Run("run").status()
    assert (status["state"], status["error"]) == ("failed", "RuntimeError: no kernel for this")
    assert "parameters" in Run("run").metrics()
    (Run("run").folder / "predictions").mkdir(exist_ok=True)
    (Run("run").folder / "predictions" / "test.jsonl").write_text("{\n")
    with pytest.raises(UserError, match="delete the folder, and give the command that made it again"):
        Run("run").predictions()
    assert main([f"model={bart}", *task_of(files), "folder=run", "dtype=bfloat16"]) == 2
    assert "the command that made it, given again with folder=" in capsys.readouterr().err
