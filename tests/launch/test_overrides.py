"""Hydra only composes: what a user gets wrong is said in our words, a line each, exit code 2."""

from __future__ import annotations

import pytest

from encdec_lightning.cli.train import main
from encdec_lightning.errors import UserErrors
from encdec_lightning.launch.command_line.names import check_overrides
from encdec_lightning.launch.command_line.overrides import compose_config


def said(capsys, *argv: str) -> list[str]:
    """The lines of a command that is refused."""
    assert main([*argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.splitlines()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("sed=1", "sed is 1: there is no such option or group (did you mean 'seed'?)."),
        ("encodr=bert", "encodr is 'bert': there is no such option or group (did you mean 'encoder'?)."),
        ("rnu=folder", "rnu is 'folder': there is no such option or group (did you mean 'run'?)."),
        ("training.lr=1", "training.lr is 1: there is no such option in training (did you mean 'learning_rate'?)."),
        (
            "generation.num_beam=4",
            "generation.num_beam is 4: there is no such option in generation (did you mean 'num_",
        ),
        ("modle.weights=tied", "modle.weights is 'tied': there is no such option (did you mean 'model'?)."),
        ("seed.x=1", "seed.x is 1: there is no such option in seed."),
        ("+seeed=1", "seeed is 1: there is no such option or group (did you mean 'seed'?)."),
        (
            "++model.wieghts=tied",
            "model.wieghts is 'tied': there is no such option in model (did you mean 'weights'?).",
        ),
        ("~seed", "seed is '~': only open slots can be removed."),
        ("~model.encoder", "model.encoder is '~': only open slots can be removed."),
        ("variant=bertshar", "variant is 'bertshar': it must be one of bert2bert, bert2gpt,"),
        ("optimizer=adm", "optimizer is 'adm': it must be one of adam, adamw (did you mean 'adam'?)."),
        ("+debug=stp", "debug is 'stp': it must be one of profiler, step (did you mean 'step'?)."),
        (
            "checkpoints=publishd",
            "checkpoints is 'publishd': it must be one of ettin_150m, ettin_17m, ettin_32m, ettin_68m, miniature,",
        ),
        (
            "checkpoints.brt=x",
            "checkpoints.brt is 'x': it must be one of bert, decoder, encoder, gpt2, presumm, roberta (did you",
        ),
        ("hydra.swep.dir=x", "hydra.swep.dir is 'x': Hydra has no such option (did you mean 'sweep'?)."),
        ("+hydra.sweep.dri=x", "hydra.sweep.dri is 'x': Hydra has no such option (did you mean 'dir'?)."),
        ("hydra/luncher=basic", "hydra/luncher is 'basic': Hydra has no such option (did you mean 'launcher'?)."),
        ("seed", "argument is 'seed': it must have the form option=value."),
        ("=3", "argument is '=3': it must have the form option=value."),
        ("seed=[1", "seed is '[1': it must be a whole number."),
        ("run=x", "run is 'x': a run continues with its own frozen config, without task=jsonl, "),
        ("seed=1,2", "seed is '1,2': several values need encdec-train --multirun."),
        ("encoder=bert,roberta", "encoder is 'bert,roberta': several values need encdec-train --multirun."),
        ("model=bert", "model is 'bert': it must be a mapping of options."),
        ("trainer=gpu", "trainer is 'gpu': it must be a mapping of options."),
        ("encoder=null", "model.encoder is None: a value must be given."),
        (
            "task.source=${task.nothing}",
            "task.source is '${task.nothing}': Interpolation key 'task.nothing' not found.",
        ),
        ("name=${oc.env:NO_SUCH}", "name is '${oc.env:NO_SUCH}': Environment variable 'NO_SUCH' not found."),
        (
            "folder=runs/${variant}",
            "folder is 'runs/${variant}': variant is a group of presets; ${hydra:runtime.choices.variant} is what was",
        ),
        ("hparams_search=learning_rate", "hparams_search is 'learning_rate': a search needs --multirun."),
        (
            "trainer.max_step=5",
            "trainer.max_step is 5: lightning.Trainer takes no such argument (did you mean 'max_step",
        ),
        ("checkpoint=bset", "checkpoint is 'bset': it must be best, last or the path of a checkpoint."),
        ("checkpoint=/", "checkpoint is '/': it is a folder; give best, last or the path of a checkpoint."),
        ("init_from=nowhere", "init_from is 'nowhere': it is not the folder of a run (it has no config.yaml)."),
        ("task.train=none.jsonl", "task.train is 'none.jsonl': there is no such file"),
        ("task.source=documnt", "task.source is 'documnt': task.train line 1 has no such column"),
        ("task.metrics=[rogue]", "task.metrics is 'rogue': expected rouge, exact_match"),
        ("task.preprocess=[os.nothing]", "task.preprocess is 'os.nothing': it must be the dotted path of a function"),
        ("task.max_target_length=65", "task.max_target_length is 65: "),
    ],
)
def test_one_mistake_is_one_sentence(line, sentence, files, in_tmp, capsys):
    found = said(capsys, *files.overrides(line))
    assert found[0].startswith(sentence)
    assert all(": " in each and each.endswith(".") for each in found)
    assert len(found) == (3 if line.startswith("task.source=documnt") else 1)  # each split's file
    assert list(in_tmp.iterdir()) == []


def test_all_mistakes_at_once(files, in_tmp, capsys):
    wrong = ["sed=1", "variant=x", "seed=y", "=", "hydra.swep=1", "training.learning_rate=-1", "model.weights=tide"]
    found = said(capsys, *files.overrides(*wrong))
    assert [line.split(" is ")[0] for line in found] == [
        "sed",
        "variant",
        "argument",
        "hydra.swep",
        "seed",
        "model.weights",
        "training.learning_rate",
    ]


def test_interpolations_find_what_hydra_knows(files):
    options = ("variant=bertshare", "name=${hydra:runtime.choices.variant}", "folder=runs/${name}")
    config = compose_config(files.overrides(*options))
    assert (config.name, config.folder) == ("bertshare", "runs/bertshare")


def test_open_slots_take_any_argument_without_plus(files):
    config = compose_config(
        files.overrides("trainer.gradient_clip_val=1.0", "logger.csv.prefix=x", "optimizer.betas=[0.9,0.99]")
    )
    assert config.trainer["gradient_clip_val"] == 1.0
    assert config.logger["csv"]["prefix"] == "x"
    assert config.optimizer["betas"] == [0.9, 0.99]
    config = compose_config(files.overrides("+callbacks.mine._target_=a.B", "++trainer.deterministic=true"))
    assert config.callbacks["mine"] == {"_target_": "a.B"}
    assert config.trainer["deterministic"] is True


def test_an_argument_can_be_removed(files):
    config = compose_config(files.overrides("~trainer.max_steps", "trainer.max_epochs=1", "~optimizer.fused"))
    assert "max_steps" not in config.trainer
    assert config.optimizer == {"_target_": "torch.optim.AdamW"}


@pytest.mark.parametrize("group", ["variant", "debug", "logger", "callbacks", "hparams_search", "experiment"])
def test_null_takes_a_group_away(group, files):
    config = compose_config(files.overrides(f"{group}=null"))
    assert getattr(config, group, {}) == {}


def test_values_that_name_presets_in_any_form(files):
    for line in ("variant=bertshare", "+variant=bertshare", "++variant=bertshare"):
        assert compose_config(files.overrides(line)).model.weights == "tied"
    config = compose_config(files.overrides("variant=bertshare", "weights=untied", "training.learning_rate=3e-4"))
    assert (config.model.weights, config.training.learning_rate) == ("untied", 3e-4)
    assert compose_config(files.overrides("variant=bertshare", "model.weights=untied")).model.weights == "untied"
    assert compose_config(files.overrides("variant=null", "variant=bertshare")).model.weights == "tied"
    assert compose_config(files.overrides("variant=bertshare", "variant=null")).model.weights == "untied"


def test_several_values_are_for_sweeps():
    assert check_overrides(["seed=1,2", "encoder=bert,roberta"], multirun=True) == (
        [],
        ["seed=1,2", "encoder=bert,roberta"],
    )
    mistakes, usable = check_overrides(["encoder=bert,robrta", "sed=range(1,3)"], multirun=True)
    assert [str(each) for each in mistakes] == [
        "encoder is 'robrta': it must be one of bert, language_model, none, pair, roberta (did you mean 'roberta'?); "
        "any other checkpoint is set with model.encoder=robrta.",
        "sed is 'range(1,3)': there is no such option or group (did you mean 'seed'?).",
    ]
    assert usable == []


def test_presets_of_ones_own(files, in_tmp, capsys):
    for group, name, text in [
        ("variant", "mine", "# @package _global_\ndefaults:\n  - override /encoder: bert\nmodel:\n  weights: tied\n"),
        ("checkpoints", "mine", f"bert: {files.bert}\nt5: {files.bert}\n"),
        ("variant", "typo", "# @package _global_\nmodel:\n  wieghts: tied\n"),
        ("debug", "broken", "a: [1\nb: {"),
    ]:
        (in_tmp / "mine" / group).mkdir(parents=True, exist_ok=True)
        (in_tmp / "mine" / group / f"{name}.yaml").write_text(text)
    folders = [in_tmp / "mine"]
    assert compose_config(files.overrides("variant=mine"), folders).model.weights == "tied"
    assert (
        compose_config(["checkpoints=mine", *files.overrides()[:3], "trainer.max_steps=1"], folders).model.encoder
        == files.bert
    )
    with pytest.raises(UserErrors, match=r"model.wieghts is 'tied': there is no such option in model"):
        compose_config(files.overrides("variant=typo"), folders)
    (sentence,) = said(capsys, "--config-dir", "mine", *files.overrides("debug=broken"))
    assert (
        sentence
        == f"preset is '{in_tmp}/mine/debug/broken.yaml': it is not YAML (line 2: expected ',' or ']', but got ':')."
    )
    (in_tmp / "mine/debug/broken.yaml").write_text("a: 1\na: 2\n")
    (sentence,) = said(capsys, "--config-dir", "mine", *files.overrides("debug=broken"))
    assert sentence.endswith("broken.yaml': it is not YAML (line 2: found duplicate key a).")
    for group, text, expected in (
        ("experiment", "training: {learning_rate: 1e-4}\n", "begins with the line `# @package _global_`."),
        ("training", "training: {learning_rate: 1e-4}\n", "leave the line `training:` away."),
    ):
        (in_tmp / "mine" / group).mkdir()
        (in_tmp / "mine" / group / "placed.yaml").write_text(text)
        (sentence,) = said(capsys, "--config-dir=mine", *files.overrides(f"{group}=placed"))
        assert sentence.startswith(f"{group}") and sentence.endswith(expected)
    (sentence,) = said(capsys, "--config-dir=mine/variant", *files.overrides())
    assert sentence == "--config-dir is 'mine/variant': it is the folder of a group; give the one above it."
    (in_tmp / "mine/task").mkdir()
    (in_tmp / "mine/task/other.yml").write_text("train: x\n")
    (sentence,) = said(capsys, "--config-dir=mine", *files.overrides())
    assert sentence == "preset is 'mine/task/other.yml': it is not read: its name must end in .yaml."
    (in_tmp / "mine/task/other.yml").unlink()
    assert said(capsys, "--config-dir=other", *files.overrides()) == [
        "--config-dir is 'other': there is no such folder."
    ]
    (sentence,) = said(capsys, "--config-dir=mine", *files.overrides("variant=mien"))
    assert "mine" in sentence and "did you mean 'mine'?" in sentence
    (in_tmp / "mine/checkpoints/half.yaml").write_text("a: [")
    assert said(capsys, "--config-dir=mine", "seed=1")[0].endswith("half.yaml': it is not YAML.")
