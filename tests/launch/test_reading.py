"""One argument of a command line: Hydra's meaning where its grammar has one, else the text letter by letter."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import some
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import pairs, write_rows

from encdec_lightning.cli.check import main as check
from encdec_lightning.cli.train import main as train
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.files import is_file_name
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.command_line.reading import read_argument, read_value
from encdec_lightning.run import Run

TASK = ["task.train=a", "task.validation=b", "trainer.max_steps=1"]
NASTY = [
    "é",
    "数",
    "a=b",
    "x (1)",
    "a&b",
    "a#b",
    "it's",
    "a b",
    "[1]",
    "a,b",
    '"q"',
    "50%",
    "a;b!",
    "~t",
    "{x}",
    "$HOME",
]


def composed(line: str, multirun: bool = False) -> object:
    config: object = compose_config([*TASK, line], multirun=multirun)
    for name in line.partition("=")[0].split("."):
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    return config


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("name=é 数 (1) & a=b # it's", "é 数 (1) & a=b # it's"),
        ("name= two words ", " two words "),
        ("name=2024", "2024"),
        ("name=007", "007"),
        ("name=1e5", "1e5"),
        ("name=true", "true"),
        ("name=f(1,2)", "f(1,2)"),
        ("name=[a", "[a"),
        ("name='quoted, text'", "quoted, text"),
        ('name="quoted, text"', "quoted, text"),
        (r"name=escaped\, text", "escaped, text"),
        ("name=n${seed}", "n0"),
        ("name=é${seed}", "é0"),
        ("name=str(5)", "5"),
        ("folder=null", None),
        ("seed=7", 7),
        ("training.learning_rate=1e-4", 1e-4),
        ("export=false", False),
        ("task.columns=[a,b]", ["a", "b"]),
        ("task.columns=[größe,der text (1)]", ["größe", "der text (1)"]),
        ("task.columns=['a,b',c]", ["a,b", "c"]),
        ("optimizer.betas=[0.9,0.95]", [0.9, 0.95]),
        ("logger.csv={_target_:a.B,name:x}", {"_target_": "a.B", "name": "x"}),
        ("logger.csv.name=köln (1)", "köln (1)"),
        ("trainer.devices=2", 2),
    ],
)
def test_what_a_value_is(line, value):
    found = composed(line)
    if line.startswith("logger.csv="):
        assert found.items() >= value.items()
    else:
        assert found == value and type(found) is type(value)


def reads_with_a_meaning(text: str) -> bool:
    """Whether Hydra's documents give the text a meaning of its own, by what is written there."""
    stripped = text.strip(" \t")
    return (
        stripped[:1] in ("'", '"', "[", "{")
        or stripped.lower() == "null"
        or any(sign in text for sign in (",", "${", "\\", "("))
        or stripped == "???"
    )


ANY = st.text(st.characters(blacklist_characters="\n\0", blacklist_categories=["Cs"]), max_size=12)
SIGNS = st.text(st.sampled_from("ab ,'\"[]{}()=$\\é\t"), max_size=10)


@settings(max_examples=300, deadline=None)
@given(ANY | SIGNS)
def test_any_text_is_read_as_it_is_or_with_a_meaning(text):
    try:
        found = read_argument(f"name={text}")
    except UserError as problem:
        assert text.strip() == "???" and "\n" not in str(problem)
        return
    assert found.value == text or reads_with_a_meaning(text)
    assert read_argument(found.line) == found


@settings(max_examples=25, deadline=None)
@given(ANY | SIGNS)
@example("a]")
@example("\ta b\xa0")
@example("''a")
@example("x${")
@example("${nothing}")
@example("1_000")
@example("nan")
@example("a: b")
@example("/")
def test_any_text_arrives_in_the_config_or_is_refused(text):
    try:
        found = compose_config([*TASK, f"name={text}"]).name
    except UserErrors as errors:
        (problem,) = errors.problems
        assert problem.field == "name" and "\n" not in str(problem)
        assert reads_with_a_meaning(text) or not is_file_name(text)
        return
    assert found == text or reads_with_a_meaning(text)


def test_commas_ask_for_a_sweep_and_quotes_for_a_text(in_tmp):
    with pytest.raises(UserErrors) as caught:
        composed("name=a,b")
    hint = "several values need encdec-train --multirun; a text with commas stands in quotes, \"name='a,b'\""
    assert str(caught.value) == f"name is 'a,b': {hint}."
    assert composed("name='a,b'") == "a,b"
    with pytest.raises(UserErrors, match=r"data.cache is 'a,b': several values need encdec-train --multirun"):
        composed("data.cache=a,b")
    Path("a,b").mkdir()
    assert composed("data.cache=a,b") == "a,b"
    assert read_argument("data.cache=a,b", sweeps=True).choices == ("a", "b")
    for name in ("a,1.en", "a,1.de"):
        Path(name).touch()
    assert composed("task.train=a,1.en+a,1.de") == "a,1.en+a,1.de"
    with pytest.raises(UserErrors, match="several values"):
        composed("name=a,b")  # no path


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("name=é,x (1)", ("é", "x (1)")),
        ("name=1,2", ("1", "2")),
        ("seed=1,2", (1, 2)),
        ("name=choice(a,b)", ("a", "b")),
        ("name='a,b',c", ("a,b", "c")),
        ("logger=[csv],[csv,wandb]", (["csv"], ["csv", "wandb"])),
        ("name=f(1,2)", ()),
        ("name=é", ()),
        ("seed=range(1,3)", ()),
    ],
)
def test_sweeps(line, choices):
    found = read_argument(line, sweeps=True)
    assert found.choices == choices
    assert found.is_sweep == (bool(choices) or "range" in line)
    assert read_argument(found.line, sweeps=True) == found  # a sweep's points are read again


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("seed", "argument is 'seed': it must have the form option=value."),
        ("=é", "argument is '=é': it must have the form option=value."),
        ("+~seed=1", "argument is '+~seed=1': it must have the form option=value."),
        ("tásk.train=x", "tásk.train is 'x': there is no such option (did you mean 'task'?)."),
        ("seed =1", "seed  is '1': there is no such option (did you mean 'seed'?)."),
        (
            "callbacks.größe._target_=x",
            "callbacks.größe._target_ is 'x': a name may hold letters from a to z, digits, _ and -.",
        ),
        ("name=???", "name is '???': a value must be given; ??? stands for none."),
        ("name=a\udcff", "argument is 'name=a\\udcff': its bytes are no text in UTF-8."),
    ],
)
def test_what_cannot_be_read(line, sentence):
    with pytest.raises(UserError) as caught:
        read_argument(line)
    assert str(caught.value) == sentence


def test_values_outside_a_config():
    assert read_value("generation.num_beams", "4") == 4
    assert read_value("data.cache", "a #b") == "a #b"
    with pytest.raises(UserError, match="it must be one value"):
        read_value("generation.num_beams", "1,2")


@pytest.mark.parametrize("nasty", some(NASTY, *NASTY[::2]))
def test_paths_of_any_name(nasty, files, in_tmp, capsys):
    folder = in_tmp / nasty
    folder.mkdir()
    Path(folder / "bert").symlink_to(files.bert)
    rows = str(write_rows(folder / f"{nasty}.jsonl", pairs(4, seed=1)))
    paths = [f"task.{split}={rows}" for split in ("train", "validation", "test")]
    own = [f"checkpoints.bert={folder / 'bert'}", f"data.cache={folder / 'cache'}", f"model.decoder={folder / 'bert'}"]
    (folder / "variant").mkdir()
    (folder / "variant" / "mine.yaml").write_text("# @package _global_\nmodel:\n  weights: tied\n")
    presets = [f"--config-dir={folder}", "variant=mine"]
    options = files.overrides(*paths, *own, f"folder={folder / 'run'}")
    config = compose_config([*options, "variant=mine"], [folder])
    assert (config.task.train, config.folder) == (rows, str(folder / "run"))
    assert (config.model.encoder, config.model.weights) == (str(folder / "bert"), "tied")
    assert check([*presets, *options]) == 0, capsys.readouterr().err
    assert list(in_tmp.iterdir()) == [folder]


def test_a_run_under_a_nasty_name(files, in_tmp, capsys):
    first, second = "runs/数 (1), it's #1=é", "zweiter lauf & co"
    quoted = 'folder="runs/数 (1), it\'s #1=é"'
    assert train(files.overrides("debug=step", quoted, "name=é & (1)")) == 0, capsys.readouterr().err
    assert Run.open(first).config()["name"] == "é & (1)"
    assert train([f"run={first}"]) == 0
    assert train(files.overrides("debug=step", f"init_from={first}", f"folder={second}")) == 0
    assert Run.open(second).config()["init_from"] == first
