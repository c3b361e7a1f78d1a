"""What users of such frameworks try first: it works, or one sentence says what to do instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import Files
from transformers import AutoConfig, AutoTokenizer

from encdec_lightning.cache.folder import cache_folder
from encdec_lightning.cli.check import main as check
from encdec_lightning.cli.train import main
from encdec_lightning.errors import UserError
from encdec_lightning.launch.checks.checks import check_all
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.job.refusals import lightnings_refusals
from encdec_lightning.launch.loggers.wandb_run import WandbRun
from encdec_lightning.launch.slots.build import OPTIMIZER, build_partial
from encdec_lightning.run import Run

CALLBACKS = "lightning.pytorch.callbacks"


def test_predictions_stand_in_the_order_of_the_file(files: Files, in_tmp: Path):
    options = [each for each in files.overrides("debug=step", "trainer.limit_test_batches=null", "export=false")
               if not each.startswith("task.id")]  # fmt: skip
    assert main([*options, "folder=run"]) == 0
    rows = [json.loads(line)["document"] for line in Path(files.test).read_text().splitlines()]
    found = Run.open("run").predictions()
    assert [each.source for each in found] == rows
    assert [each.id for each in found] == [str(number) for number in range(1, len(rows) + 1)]


@pytest.mark.parametrize("target", ["torch.optim.Adafactor", "torch.optim.NAdam", "torch.optim.SGD"])
def test_an_optimizer_needs_no_word_about_the_defaults_kernel(target: str, files: Files):
    config = compose_config(files.overrides(f"optimizer._target_={target}"))
    assert check_all(config) == []
    made = build_partial("optimizer", config.optimizer, OPTIMIZER)([torch.nn.Parameter(torch.zeros(1))])
    assert type(made).__name__ == target.rpartition(".")[2]
    assert made.defaults.get("fused") is (True if target.endswith("SGD") else None)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("trainer.strategy=ddp_spawn", "its processes would take a run's objects from this one; hardware=ddp"),
        ("trainer.strategy=ddp_notebook", "its processes would take a run's objects from this one; hardware=ddp"),
        ("training.schedule=cosin", "did you mean 'cosine'"),
        (
            f"callbacks.mine._target_={CALLBACKS}.LearningRateFinder",
            "hparams_search=optuna_learning_rate searches a rate",
        ),
        (f"callbacks.mine._target_={CALLBACKS}.BatchSizeFinder", "data.batch_tokens bounds a batch here"),
        (
            f"callbacks.swa={{_target_: {CALLBACKS}.StochasticWeightAveraging, swa_lrs: 1e-3}}",
            "lightning.pytorch.callbacks.EMAWeightAveraging keeps its average in the checkpoints",
        ),
        (f"callbacks.mine._target_={CALLBACKS}.RichProgressBar", "callbacks.progress=null takes away its own"),
    ],
)
def test_one_sentence_says_what_to_do_instead(line: str, sentence: str, files: Files, in_tmp: Path, capsys):
    assert main(files.overrides(line, "folder=run")) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("run").exists()


def test_folders_without_weights_are_found_before_the_job(files: Files, in_tmp: Path, capsys):
    folder = in_tmp / "bert"
    AutoConfig.from_pretrained(files.bert).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((Path(files.bert) / name).read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"")
    options = [*files.overrides("variant=bertshare"), f"checkpoints.bert={folder}"]
    assert check(options) == 2
    assert "holds pytorch_model.bin but no model.safetensors; convert it once with" in capsys.readouterr().err
    assert check([*options, "variant=rnd2rnd"]) == 0


def test_a_vocabulary_with_some_words_more_does_not_begin_anew_unsaid(files: Files, in_tmp: Path, capsys):
    tokenizer = AutoTokenizer.from_pretrained(files.bert)
    tokenizer.add_tokens(["<e1>", "<e2>"])
    tokenizer.save_pretrained("more")
    words = ["model.encoder_vocabulary=more", "model.decoder_vocabulary=more"]
    assert check([*files.overrides("variant=bertshare"), *words]) == 2
    told = capsys.readouterr().err
    assert "and 2 more; each would start at random; call the checkpoint's resize_token_embeddings" in told
    assert check([*files.overrides("variant=rnd2rnd"), *words]) == 0


def test_an_exported_pair_is_no_side(files: Files, in_tmp: Path, capsys):
    assert main(files.overrides("debug=step", "variant=bert2bert", "folder=run", "export=true")) == 0
    capsys.readouterr()
    sides = ["model.encoder=run/model", "model.decoder=run/model"]
    assert check([*files.overrides("weights=untied"), *sides]) == 2
    told = capsys.readouterr().err
    assert "model.encoder is 'run/model'" in told and "Traceback" not in told


def test_memory_that_runs_out_in_training_names_what_needs_less():
    with pytest.raises(UserError, match=r"data.batch_tokens.*gradient_checkpointing.*init_from=") as caught, \
            lightnings_refusals():  # fmt: skip
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
    assert str(caught.value).startswith("memory is 'OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB': ")
    with pytest.raises(UserError, match=r"^memory is .*DefaultCPUAllocator.*: the memory of the device does not"), \
            lightnings_refusals():  # fmt: skip
        torch.empty(1 << 50)
    with pytest.raises(RuntimeError, match=r"^expected 2D input$"), lightnings_refusals():
        raise RuntimeError("expected 2D input")


def test_wandbs_own_variables_name_the_project_and_the_tags(tmp_path: Path, monkeypatch):
    facts = {"task": "xsum"}
    assert WandbRun(save_dir=tmp_path, offline=True, facts=facts)._wandb_init["project"] == "encdec_lightning"
    assert WandbRun(save_dir=tmp_path, offline=True, facts=facts)._wandb_init["tags"] == ["task:xsum"]
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_TAGS", "own")
    named = WandbRun(save_dir=tmp_path, offline=True, facts=facts)._wandb_init
    assert (named["project"], named["tags"]) == ("mine", None)
    given = WandbRun(save_dir=tmp_path, offline=True, facts=facts, project="given", tags=["mine"])._wandb_init
    assert (given["project"], given["tags"]) == ("given", ["mine"])


def test_a_tilde_is_the_home(files: Files, in_tmp: Path, capsys, monkeypatch):
    """A shell leaves it as it is behind a name with a dot, and a folder of that name would be made."""
    monkeypatch.setenv("HOME", str(in_tmp / "home"))
    (in_tmp / "home" / "presets" / "task").mkdir(parents=True)
    (in_tmp / "home" / "presets" / "task" / "mine.yaml").write_text("train: ~/a.en+~/a.de\nvalidation: b~/~c\n")
    config = compose_config(
        ["data.cache=~/cache", "folder=~", "model.encoder=~/bert", "task=mine", "trainer.max_steps=1"],
        [in_tmp / "home" / "presets"],
    )
    home = in_tmp / "home"
    assert (config.data.cache, config.folder, config.model.encoder) == (f"{home}/cache", str(home), f"{home}/bert")
    assert (config.task.train, config.task.validation) == (f"{home}/a.en+{home}/a.de", "b~/~c")
    assert main(["--cfg", "--config-dir=~/presets", *files.overrides("task=mine")]) == 0
    monkeypatch.setenv("ENCDEC_LIGHTNING_CACHE", "~/kept")
    assert cache_folder() == home / "kept"


def test_fp16_needs_a_gpu(files: Files, in_tmp: Path, capsys):
    assert main(files.overrides("precision=fp16", "folder=run")) == 2
    told = "trainer.precision is '16-mixed': fp16 with a gradient scaler needs a GPU; take precision=bf16 or"
    assert capsys.readouterr().err.startswith(told)
    assert check_all(compose_config(files.overrides("precision=fp16")), here=False) == []


def test_a_warm_up_that_is_longer_than_the_training_is_said(files: Files, in_tmp: Path, capsys):
    assert main(files.overrides("debug=step", "folder=run", "training.warmup_steps=50")) == 0
    assert (
        " steps, fewer than the warm-up's 50, so that the learning rate never reaches its peak, on cpu"
        in capsys.readouterr().err
    )


def test_the_memory_of_an_optimizer_that_asks_for_a_function(files: Files, in_tmp: Path, capsys):
    assert (
        check(files.overrides("variant=bertshare", "optimizer._target_=torch.optim.LBFGS", "optimizer.fused=null")) == 0
    )
    assert "Traceback" not in capsys.readouterr().err
