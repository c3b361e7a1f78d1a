"""The tree of options: one strict conversion, every mistake at once, an identity of what changes results."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encdec_lightning.composition.options import Weights
from encdec_lightning.config import NOT_GIVEN, Config, defaults, unknown_option
from encdec_lightning.errors import UserErrors
from encdec_lightning.rules import convert, problems
from encdec_lightning.training.options import Training


def values(**changed: Any) -> dict[str, Any]:
    """Plain values of a small config; a node given here is merged into the node that is there."""
    tree: dict[str, Any] = {
        "model": {"encoder": "a", "decoder": "b"},
        "task": {"train": "train.jsonl", "validation": "validation.jsonl"},
        "trainer": {"_target_": "lightning.Trainer", "max_steps": 10},
    }
    for name, value in changed.items():
        tree[name] = {**tree[name], **value} if isinstance(value, dict) and name in tree else value
    return tree


def mistakes(**changed: Any) -> list[str]:
    with pytest.raises(UserErrors) as caught:
        convert(values(**changed))
    return [str(problem) for problem in caught.value.problems]


def test_defaults_are_those_of_the_dataclasses():
    tree = defaults()
    assert (tree["model"]["encoder"], tree["task"]["train"]) == (NOT_GIVEN, NOT_GIVEN)
    filled = {**tree, **{name: {**tree[name], **values()[name]} for name in ("model", "task", "trainer")}}
    assert convert(filled) == convert(values())
    assert convert(values()).training == Training()


def test_conversion_gives_the_rooms_own_options():
    config = convert(values(training={"learning_rate": 1, "schedule": "noam", "warmup_steps": 5}))
    assert config.training == Training(learning_rate=1.0, schedule="noam", warmup_steps=5)
    assert convert(asdict(config)) == config


def test_every_mistake_is_said_at_once():
    found = mistakes(sede=3, seed="x", generation={"num_beam": 4}, training={"learning_rate": -1.0})
    assert sorted(found) == [
        "generation.num_beam is 4: there is no such option in generation (did you mean 'num_beams'?).",
        "sede is 3: there is no such option (did you mean 'seed'?).",
        "seed is 'x': it must be a whole number.",
        "training.learning_rate is -1.0: it must be above 0.",
    ]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"seed": "1"}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": None}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"name": 3}, "name"),
        ({"name": ".."}, "name"),
        ({"name": ""}, "name"),
        ({"validate_every": 0}, "validate_every"),
        ({"export": "yes"}, "export"),
        ({"export": 1}, "export"),
        ({"training": {"learning_rate": "1e-4"}}, "training.learning_rate"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate"),
        ({"generation": {"num_beams": 0}}, "generation.num_beams"),
        ({"task": {"metrics": "rouge"}}, "task.metrics"),
        ({"task": {"metrics": [1]}}, "task.metrics.0"),
        ({"model": {"dropout": 1.0}}, "model.dropout"),
        ({"data": []}, "data"),
        ({"callbacks": {"mine": 3}}, "callbacks.mine"),
        ({"model": {"decoder": ""}}, "model.decoder"),
        ({"model": {"decoder": None}}, "model.encoder_sentences"),
        ({"extraction": {"sentences": 2}}, "extraction.sentences"),
    ],
)
def test_types_and_ranges_are_strict(changed, field):
    (sentence,) = mistakes(**changed)
    assert sentence.startswith(f"{field} is ")


def test_what_must_be_given_is_named():
    tree = values()
    del tree["task"]["train"], tree["model"]["encoder"]
    with pytest.raises(UserErrors) as caught:
        convert(tree)
    assert {problem.field for problem in caught.value.problems} == {"task.train", "model.encoder"}
    assert all("a value must be given" in str(problem) for problem in caught.value.problems)


def test_choices_are_listed_and_the_near_one_is_proposed():
    (sentence,) = mistakes(model={"weights": "tide"})
    assert sentence.endswith(f"it must be one of {', '.join(get_args(Weights))} (did you mean 'tied'?).")


@pytest.mark.parametrize("value", [2.5, "two", True, [1.5], [[1]], {"a": 1}])
def test_one_mistake_in_an_option_of_several_kinds_is_one_sentence(value):
    (sentence,) = mistakes(model={"encoder_layers": value})
    expected = "it must be a whole number or a list of whole numbers or null."
    assert sentence == f"model.encoder_layers is {value!r}: {expected}"


def test_choices_of_an_option_that_may_be_null():
    (sentence,) = mistakes(training={"freeze": "encodr"})
    assert sentence.endswith(
        "it must be one of pretrained, all_but_cross_attention, encoder, decoder (did you mean 'encoder'?)."
    )


@settings(max_examples=30)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x), max_leaves=4))
def test_no_value_gets_through_as_another_type(value):
    if isinstance(value, str) and value.strip(". ") and value.isprintable() and "/" not in value:
        assert convert(values(name=value)).name == value
    else:
        assert mistakes(name=value)[0].startswith(("name is ", "name."))


@pytest.mark.parametrize(
    ("changed", "field", "says"),
    [
        ({"optimizer": {"_target_": "torch.optim.AdamW", "lr": 1.0}}, "optimizer.lr", "training.learning_rate"),
        (
            {"optimizer": {"_target_": "torch.optim.AdamW", "weight_decay": 1.0}},
            "optimizer.weight_decay",
            "training.weight_decay",
        ),
        ({"trainer": {"accumulate_grad_batches": 2}}, "trainer.accumulate_grad_batches", "data.accumulate"),
        ({"trainer": {"val_check_interval": 2}}, "trainer.val_check_interval", "validate_every"),
        ({"trainer": {"check_val_every_n_epoch": 2}}, "trainer.check_val_every_n_epoch", "validate_every"),
        ({"trainer": {"default_root_dir": "x"}}, "trainer.default_root_dir", "folder"),
        ({"trainer": {"callbacks": []}}, "trainer.callbacks", "callbacks"),
        ({"trainer": {"logger": True}}, "trainer.logger", "logger"),
        ({"trainer": {"use_distributed_sampler": True}}, "trainer.use_distributed_sampler", "data plan"),
        ({"data": {"batch_tokens": 639}}, "data.batch_tokens", "= 640"),
        ({"data": {"evaluation_batch_tokens": 639}}, "data.evaluation_batch_tokens", "= 640"),
        ({"trainer": {"max_steps": -1}}, "training.schedule", "trainer.max_steps"),
        ({"task": {"monitor": "train/loss"}}, "task.monitor", "val/loss"),
        ({"task": {"monitor": "val/rouge1"}}, "task.monitor", "task.validation_generate"),
        ({"generation": {"min_length": 129}}, "generation.min_length", "task.max_target_length (128)"),
    ],
)
def test_rules_across_nodes(changed, field, says):
    (sentence,) = mistakes(**changed)
    assert sentence.startswith(f"{field} is ")
    assert says in sentence


def test_what_the_rules_allow():
    assert convert(values(data={"batch_tokens": 640}))
    assert convert(values(trainer={"max_steps": -1, "max_epochs": 2}))
    assert convert(values(trainer={"max_steps": -1}, training={"schedule": "constant"}))
    assert convert(values(task={"monitor": "val/rouge1", "validation_generate": 4}))
    assert convert(values(generation={"min_length": 128}))
    assert problems(convert(values())) == []


@pytest.mark.parametrize(
    "path", ["seed", "model.encoder", "trainer.anything", "logger.mine.project", "callbacks", "optimizer._target_"]
)
def test_known_options(path):
    assert unknown_option(path, 1) is None


@pytest.mark.parametrize("path", ["sed", "model.encodr", "seed.x", "model.encoder.x", "trainr.max_steps", ""])
def test_unknown_options(path):
    assert str(unknown_option(path, 1)).startswith(f"{path} is 1: there is no such option")


BASE = values()
EXTRACTS = {"decoder": None, "encoder_sentences": "en"}
SAME = [
    {"name": "other"},
    {"folder": "elsewhere"},
    {"export": False},
    {"checkpoint_minutes": None},
    {"logger": {"mine": {"_target_": "x"}}},
    {"trainer": {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 7}},
    {"data": {"cache": "/some/folder"}},
    {"checkpoint_minutes": 1.0},
    {"slurm": {"partition": "gpu", "print": True}},
    {"search": {"trials": 7, "sampler": "random"}},
]
OTHER = [
    {"seed": 1},
    {"validate_every": 5},
    {"checkpoint": "last"},
    {"init_from": "runs/other"},
    {"model": {"encoder": "c"}},
    {"model": {"weights": "tied"}},
    {"task": {"train": "more.jsonl"}},
    {"data": {"batch_tokens": 9000}},
    {"data": {"seed": 1}},
    {"generation": {"num_beams": 2}},
    {"model": EXTRACTS},
    {"model": EXTRACTS, "extraction": {"sentences": 2}},
    {"training": {"learning_rate": 1e-3}},
    {"trainer": {"max_steps": 11}},
    {"optimizer": {"_target_": "torch.optim.Adam"}},
    {"callbacks": {"mine": {"_target_": "x"}}},
]


@pytest.mark.parametrize("changed", SAME)
def test_identity_stays(changed):
    assert convert(values(**changed)).identity() == convert(BASE).identity()


def test_identity_changes_with_what_changes_results():
    identities = {convert(values(**changed)).identity() for changed in [{}, *OTHER]}
    assert len(identities) == 1 + len(OTHER)
    named = {name for changed in [*SAME, *OTHER] for name in changed}
    assert named == {field for field in Config.__dataclass_fields__ if not field.startswith("__")}


def test_the_identity_of_extracts_does_not_depend_on_how_texts_are_written():
    one, other = (convert(values(model=EXTRACTS, **more)) for more in ({}, {"generation": {"num_beams": 4}}))
    assert one.identity() == other.identity()


def test_identity_does_not_depend_on_the_order_of_keys():
    config = convert(BASE)
    turned = replace(config, trainer=dict(reversed(config.trainer.items())))
    assert turned.identity() == config.identity()
