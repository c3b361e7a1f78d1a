"""`encdec-check`: the same answer as training would give, for people and for programs."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from encdec_lightning.cli.check import main
from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.foreign import open_tokenizer
from encdec_lightning.composition.paper import ROWS

PAPER = ["experiment=rothe"]


def answer(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_report_names_sides_tokens_and_parameters(files, capsys):
    code, out, err = answer(capsys, *files.overrides("variant=bertshare"))
    assert (code, err) == (0, "")
    assert f"encoder  {files.bert} (bert, 2 layers, 32 wide, 123 words, 64 positions), pretrained" in out
    assert "start '[CLS]' (2), end '[SEP]' (3), pad '[PAD]' (0)" in out
    model = compose(files.bert, files.bert, "tied")
    assert f"{sum(each.numel() for each in model.parameters()):,}" in out
    assert "printed" not in out and "random 26M" not in out  # the paper's figures are about other sizes


def test_the_papers_figures_stand_beside_its_own_sizes(capsys):
    code, out, _ = answer(capsys, *PAPER, "variant=rnd2bert")
    assert code == 0
    for words in ("221,140,992", "221M", "113,421,312", "random 26M is a misprint: 221M - 109M = 112M", "not on this"):
        assert words in out


@pytest.mark.parametrize("variant", ["bert2gpt", "gpt", "rnd2gpt", "robertashare"])
def test_json_says_what_will_be_built(files, capsys, variant):
    code, out, _ = answer(capsys, *files.overrides(f"variant={variant}"), "--json")
    found = json.loads(out)
    assert code == 0 and found["ok"]
    sides = {each["role"]: each for each in found["sides"]}
    options = {f"{role}": sides[role]["checkpoint"] if role in sides else None for role in ("encoder", "decoder")}
    if variant == "rnd2gpt":
        options |= {"encoder_init": "random", "encoder_vocabulary": files.gpt2}
    model = compose(**options, weights=found["weights"])
    sizes = {name: each.numel() for name, each in model.named_parameters()}
    as_built = found["parameters"]["as_built"]
    assert as_built["total"] == sum(sizes.values())
    assert as_built["random"] == sum(sizes[name] for name in model.config.fresh_parameters)
    assert found["paper"]["variant"] == variant and not found["paper"]["same_size"]
    target = {"robertashare": "</s>"}.get(variant, "<|endoftext|>")
    assert found["special_tokens"]["end"][0] == target


def test_all_variants_of_a_set(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")  # nothing is cut all the same
    code, out, _ = answer(capsys, *PAPER, "--variants")
    assert code == 0
    for words in ("rnd2rnd", "136,086,528", "152,421,888", "124,439,808", "238,257,408", "276,861,696", "221/109/26"):
        assert words in out
    code, out, _ = answer(capsys, *PAPER, "checkpoints=multilingual", "--variants", "--json")
    rows = json.loads(out)
    assert rows.keys() == {"rnd2rnd", "bert2rnd", "rnd2bert", "bert2bert", "bertshare", "gpt", "rnd2gpt", "bert2gpt"}
    assert rows["bertshare"]["parameters"]["by_the_paper"]["total"] == 205_629_696


@pytest.mark.slow
def test_the_first_job_does_not_stand_against_any_variant(capsys):
    code, out, err = answer(capsys, "checkpoints=published", "--variants")
    assert (code, err) == (0, "") and all(f" {row} " in out for row in ROWS)


@pytest.mark.slow
def test_a_variant_that_cannot_be_built_is_told_beside_the_others(files, capsys):
    argv = files.overrides("model.decoder_layers=1", "--variants")
    code, out, err = answer(capsys, *argv)
    refused = {line.partition(":")[0] for line in err.splitlines()}
    assert code == 2 and refused == {f"model.weights of {row} is 'tied'" for row in ("bertshare", "robertashare")}
    assert " bert2bert " in out and " bertshare " not in out
    code, out, _ = answer(capsys, *argv, "--json")
    found = {row: values["ok"] for row, values in json.loads(out).items()}
    assert code == 2 and not found["bertshare"] and found["bert2gpt"] and len(found) == len(ROWS)


@pytest.mark.parametrize(
    "options",
    [
        ["variant=bert2bert", "checkpoints.bert=bert-base-uncased"],
        ["variant=bertshare", "model.encoder_vocabulary=gpt2", "model.decoder_vocabulary=gpt2"],
        ["variant=bertshare", "ablation=first_10_of_large"],
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (
                ["variant=bertshare", "checkpoints.bert=bert-base-multilingual-cased"],
                ["variant=roberta2gpt", "checkpoints.roberta=roberta-large"],
                ["variant=bertshare", "model.cross_attention_init=self_attention"],
            )
        ),
    ],
)
def test_the_papers_figures_do_not_stand_beside_other_models(capsys, options):
    code, out, _ = answer(capsys, *PAPER, *options)
    assert code == 0 and "printed" not in out and "26M" not in out
    _, out, _ = answer(capsys, *PAPER, *options, "--json")
    assert (json.loads(out)["paper"] or {}).get("same_size", False) is False


def test_reasons_come_with_exit_code_2(files, capsys):
    argv = files.overrides("variant=bert2bert", f"model.encoder={files.gpt2}", "task.max_target_length=99")
    code, out, err = answer(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.strip() == (
        f"model.encoder is {files.gpt2!r}: gpt2 reads left to right only; "
        "encoder_bidirectional=true takes its causal mask off."
    )
    code, out, err = answer(capsys, *argv, "--json")
    assert (code, err) == (2, "")
    found = json.loads(out)
    assert not found["ok"] and [each["field"] for each in found["problems"]] == ["model.encoder"]


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("task.max_source_length=65", "task.max_source_length is 65: {bert} has positions for 64 tokens."),
        ("generation.max_length=65", "generation.max_length is 65: {bert} has positions for 64 tokens."),
        ("model.encoder_layers=3", "model.encoder_layers is 3: {bert} has 2 layers."),
        ("model.weigths=tied", "model.weigths is 'tied': there is no such option in model (did you mean 'weights'?)."),
        ("encoder=bart", "encoder is 'bart': it must be one of bert, language_model, none, pair, roberta (did you mean 'bert'?); "
                         "any other checkpoint is set with model.encoder=bart."),
    ],
)  # fmt: skip
def test_one_mistake_is_one_sentence(files, capsys, option, sentence):
    code, out, err = answer(capsys, *files.overrides("variant=bert2bert", option))
    assert (code, out, err.strip()) == (2, "", sentence.format(bert=files.bert))


def test_a_decoder_alone_has_one_position_table_for_both(files, capsys):
    argv = files.overrides("variant=gpt", "task.max_source_length=60", "task.max_target_length=5")
    code, _, err = answer(capsys, *argv)
    expected = f"{files.gpt2} has positions for 64 tokens, source and target together."
    assert (code, err.strip()) == (2, f"task.max_source_length is 60: {expected}")
    assert answer(capsys, *argv, "task.max_source_length=59")[0] == 0


@pytest.mark.parametrize(
    ("variant", "part", "expected"),
    [
        ("gpt", "encoder", "a decoder alone has no encoder"),
        ("gpt", "pretrained", "nothing would be left to train"),
        ("gpt", "all_but_cross_attention", "a decoder alone has no cross-attention"),
        ("bertshare", "decoder", "nothing would be left to train"),
    ],
)
def test_a_job_that_would_train_nothing_is_found_before_the_run(files, capsys, variant, part, expected):
    code, _, err = answer(capsys, *files.overrides(f"variant={variant}", f"training.freeze={part}"))
    assert (code, err.strip()) == (2, f"training.freeze is {part!r}: {expected}.")
    assert answer(capsys, *files.overrides("variant=bert2bert", f"training.freeze={part}"))[0] == 0


def test_a_tokenizer_that_does_not_fit_is_found_before_the_run(files, capsys, tmp_path):
    import shutil

    shutil.copytree(files.bert, tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    code, _, err = answer(capsys, *files.overrides("variant=bertshare", f"checkpoints.bert={tmp_path / 'bert'}"))
    assert code == 2 and "the encoder's vocabulary has 100 words" in err


def test_it_loads_no_weights_and_needs_no_hub():
    """On a machine with the package alone: no file of a checkpoint, no network, nothing written."""
    script = "import sys; from encdec_lightning.cli.check import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, *PAPER, "variant=bertshare", "checkpoints=published_large", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["parameters"]["by_the_paper"]["total"] == 433_340_416


def test_the_data_as_the_model_sees_them(files, in_tmp, capsys):
    options = [*files.overrides("variant=bert2gpt", "task.max_source_length=14"), f"data.cache={in_tmp / 'cache'}"]
    code, out, err = answer(capsys, "--data", *options)
    assert (code, err) == (0, "")
    for words in (
        "Examples",
        "Tokens of train sources",
        "p95",
        "to 14",
        "unknown tokens",
        "in training",
        "example row-1-0",
    ):
        assert words in out
    assert "  source  [CLS] the " in out and "  decoder <|endoftext|> " in out
    picture = Path(out.rpartition("token lengths as a picture: ")[2].strip())
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, out, err = answer(capsys, "--data", "--json", *options)
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert {split: each["examples"] for split, each in found.items()} == {"train": 64, "validation": 16, "test": 12}
    assert found["train"]["source"]["truncated"] > 0


def test_a_cache_that_cannot_be_written_costs_the_picture_alone(files, in_tmp, capsys, monkeypatch):
    def refuses(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("encdec_lightning.reporting.data.draw_lengths", refuses)
    code, out, err = answer(capsys, "--data", *files.overrides(f"data.cache={in_tmp / 'cache'}"))
    assert code == 0 and "Tokens of train sources" in out
    assert err.startswith("no picture of the token lengths: ") and "Read-only file system" in err


def test_data_that_are_wrong_are_one_sentence(files, in_tmp, capsys):
    (in_tmp / "bad.jsonl").write_text('{"key": "1", "document": "a", "summary": "b"}\n{}\n')
    options = files.overrides(f"task.train={in_tmp / 'bad.jsonl'}")
    code, out, err = answer(capsys, "--data", *options)
    assert (code, out) == (2, "")
    assert err.startswith("task.id is 'key': task.train line 2 has no such column") and err.count("\n") == 1
    code, out, err = answer(capsys, "--data", "--json", *options)
    assert (code, err, json.loads(out)["ok"]) == (2, "", False)


def test_memory_with_a_language_model_is_counted_as_with_a_bert(files, probe, capsys):
    """Whose code looks into positions, where there are none without values."""
    found = {}
    for decoder in (files.bert, probe.folder("llama"), files.gpt2):
        options = files.overrides("variant=bert2bert", f"model.decoder={decoder}", "model.weights=untied")
        found[decoder] = json.loads(answer(capsys, *options, "--json")[1])["memory"]["1 device"]["activations"]
    assert all(0.5 < each / found[files.bert] < 2 for each in found.values())


def test_memory_per_device_is_counted_without_values(files, capsys):
    """Weights, gradients and AdamW's two states in fp32; each of N shards has its part, DDP its buckets beside."""
    options = files.overrides("variant=bertshare", "hardware=ddp_cpu")
    code, out, _ = answer(capsys, *options, "--json")
    found = json.loads(out)
    assert code == 0 and list(found["memory"]) == ["1 device", "DDP, 2 devices", "FSDP2, 2 devices"]
    one, ddp, fsdp = found["memory"].values()
    size = 4 * found["parameters"]["as_built"]["total"]
    assert (one["weights"], one["gradients"], one["optimizer"], one["copies"]) == (size, size, 2 * size, 0)
    assert ddp == {**one, "copies": size, "total": one["total"] + size}
    logits = 400 // (40 + 12) * 12 * 123 * 4  # pairs in a micro-batch, target tokens, words, bytes
    assert (fsdp["weights"], fsdp["optimizer"], fsdp["activations"]) == (size // 2, size, one["activations"] + logits)
    assert one["total"] == 4 * size + one["activations"]
    again = json.loads(answer(capsys, *options, "training.gradient_checkpointing=true", "--json")[1])["memory"][
        "1 device"
    ]
    assert 0 < 3 * again["activations"] < one["activations"]
    half = json.loads(
        answer(capsys, *options, "precision=bf16_true", "optimizer._target_=torch.optim.SGD", "--json")[1]
    )
    assert half["memory"]["1 device"]["weights"] == size // 2 and half["memory"]["1 device"]["optimizer"] == 0
    assert half["memory"]["1 device"]["activations"] < 0.75 * one["activations"]
    assert "activations" in answer(capsys, *options)[1]


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (
            "generation.quantize=int8",
            "generation.quantize is 'int8': transformers' generate computes with the weights as",
        ),
        ("generation.length_normalization=wu", "generation.length_normalization is 'wu': transformers' generate knows"),
    ],
)
def test_what_the_engine_alone_does_is_refused_for_a_model_that_it_cannot_run(files, tmp_path, capsys, option, why):
    tokenizer = open_tokenizer("decoder", str(files.gpt2))
    config = transformers.BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=2)
    transformers.BloomForCausalLM(config).save_pretrained(tmp_path / "bloom")
    tokenizer.save_pretrained(tmp_path / "bloom")
    options = files.overrides(f"model.encoder={files.bert}", f"model.decoder={tmp_path / 'bloom'}")
    assert answer(capsys, *options)[0] == 0
    code, _, err = answer(capsys, *options, "generation.num_beams=2", option)
    assert code == 2 and why in err and "(it runs this model: " in err
    code, _, err = answer(capsys, *files.overrides("variant=bert2bert", "generation.num_beams=2", option))
    assert (code, err) == (0, "") or (option.endswith("int8") and "no exact int8 products on this processor" in err)
