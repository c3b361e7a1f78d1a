from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encdec_lightning.composition.options import Composition
from encdec_lightning.config import Config
from encdec_lightning.data.options import Task
from encdec_lightning.errors import UserErrors
from encdec_lightning.rules import problems
from encdec_lightning.training import options
from encdec_lightning.training.options import NEED_WARMUP, Training
from encdec_lightning.training.schedules import SCHEDULES, schedule


def test_noam_is_the_papers_formula() -> None:
    # Rothe et al., section 2: 0.05 / sqrt(768) * min(t^-0.5, t * 40000^-1.5); its peak is 9.02e-6.
    factor = schedule(Training(learning_rate=0.05, schedule="noam", warmup_steps=40_000), total_steps=0, width=768)
    assert 0.05 * factor(40_000 - 1) == pytest.approx(9.02e-6, rel=1e-3)
    assert factor(160_000 - 1) == pytest.approx(factor(40_000 - 1) / 2)
    assert factor(10_000 - 1) == pytest.approx(factor(40_000 - 1) / 4)
    assert factor(0) > 0


def test_linear_equals_transformers_shifted_by_one_step() -> None:
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=5, num_training_steps=21).lr_lambdas[0]
    ours = schedule(Training(schedule="linear", warmup_steps=5), total_steps=20, width=1)
    # transformers starts at a rate of 0, which wastes a step; ours is theirs one step on.
    assert [ours(index) for index in range(20)] == pytest.approx([theirs(index + 1) for index in range(20)])


def test_cosine_equals_transformers_shifted_by_one_step() -> None:
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=5, num_training_steps=21).lr_lambdas[0]
    ours = schedule(Training(schedule="cosine", warmup_steps=5), total_steps=20, width=1)
    assert [ours(index) for index in range(20)] == pytest.approx([theirs(index + 1) for index in range(20)])


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 50), st.integers(51, 500), st.integers(1, 1024))
def test_every_schedule_rises_to_its_peak_and_never_again(name: str, warmup: int, total: int, width: int) -> None:
    values = [SCHEDULES[name].factor(step, warmup, total, width) for step in range(1, total + 1)]
    assert all(value > 0 for value in values)
    assert values[:warmup] == sorted(values[:warmup])
    assert values[warmup - 1 :] == sorted(values[warmup - 1 :], reverse=True)
    if name != "noam":
        assert max(values) == pytest.approx(1.0)


def test_linear_without_warmup_falls_from_the_first_step_and_ends_above_zero() -> None:
    factor = schedule(Training(schedule="linear"), total_steps=4, width=1)
    assert [factor(index) for index in range(5)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])


@pytest.mark.parametrize("name", ["noam", "inverse_sqrt"])
def test_square_root_schedules_need_a_warmup(name: str) -> None:
    with pytest.raises(UserErrors, match="warmup_steps"):
        Training(schedule=name)  # type: ignore[arg-type]


def test_options_name_the_schedules_that_there_are() -> None:
    assert list(get_args(options.Schedule)) == list(SCHEDULES)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_what_a_schedule_needs_is_what_it_is_not_defined_without(name: str) -> None:
    kind = SCHEDULES[name]
    endless = [kind.factor(step, 5, 0, 64) for step in range(1, 60)]
    assert (0.0 in endless) == kind.needs_steps
    if name in NEED_WARMUP:
        with pytest.raises(ZeroDivisionError):
            kind.factor(1, 0, 10, 64)
    else:
        assert kind.factor(1, 0, 10, 64) > 0
    task = Task(train="a.jsonl", validation="a.jsonl")
    config = Config(
        model=Composition(encoder="a", decoder="b"),
        task=task,
        training=Training(schedule=name, warmup_steps=1),  # type: ignore[arg-type]
    )
    assert [each.value for each in problems(config)] == ([name] if kind.needs_steps else [])
