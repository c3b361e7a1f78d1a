"""A private part of torch that is gone, or computes something else, switches its kernel off, and the log says so once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from encdec_lightning.kernels import attention, onednn_linear, products, stand_in
from encdec_lightning.kernels.self_check import self_check

CHECKS = [
    attention.softmax_gradient_is_exact,
    onednn_linear.products_are_exact,
    products.products_in_bf16_are_exact,
    products.adds_biases,
    stand_in.modules_can_be_replaced,
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """As in a process that has used no kernel yet."""
    for check in CHECKS:
        check.cache_clear()
    yield
    for check in CHECKS:
        check.cache_clear()


def operators(**replaced: Any) -> SimpleNamespace:
    """oneDNN's, some of them others; None: gone."""
    names = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    theirs = {name: getattr(torch.ops.mkldnn, name) for name in names} | replaced
    return SimpleNamespace(**{name: each for name, each in theirs.items() if each is not None})


def gradients() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 2, 5, 4, requires_grad=True) for _ in range(3)]
    output, _ = attention.attention(nn.Module(), *leaves, None, is_causal=True)
    return torch.autograd.grad(output.square().sum(), leaves)


def test_where_the_facts_hold_nothing_is_said_and_no_time_lost(caplog: pytest.LogCaptureFixture) -> None:
    state = torch.get_rng_state()
    assert attention.softmax_gradient_is_exact() and stand_in.modules_can_be_replaced()
    started = time.process_time()
    for _ in range(1000):
        attention.softmax_gradient_is_exact()
    assert time.process_time() - started < 0.1
    assert torch.equal(torch.get_rng_state(), state) and not caplog.records


@pytest.mark.parametrize("change", ["another result", "gone", "other arguments"])
def test_the_gradient_of_the_softmax(change: str, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    expected = gradients()
    attention.softmax_gradient_is_exact.cache_clear()
    if change == "gone":
        monkeypatch.delattr(torch, "_softmax_backward_data")
    else:
        other = (lambda *given: 2 * given[0]) if change == "another result" else (lambda gradient, output: gradient)
        monkeypatch.setattr(torch, "_softmax_backward_data", other)
    for _ in range(2):
        for one, two in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(one, two)
    (said,) = caplog.messages
    assert said.startswith(
        f"torch {torch.__version__} on this machine does not do what was expected, "
        "so torch's gradient of the softmax is off and a formula"
    )
    assert "\n" not in said and said.endswith("another result" if change == "another result" else said[-1])


@pytest.mark.parametrize(
    "replaced",
    [
        {"_linear_pointwise": None},
        {"_reorder_linear_weight": None},
        {"_reorder_linear_weight": lambda weight: weight},
        {"_linear_pointwise": lambda given, weight, bias, *more: given.new_zeros(len(given), 6)},
    ],
)
def test_linear_layers_of_onednn(replaced: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(onednn_linear, "processor_has_bf16", lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", operators(**replaced))
    model = nn.Sequential(nn.Linear(48, 32), nn.Linear(32, 16)).bfloat16()
    given = torch.randn(4, 48).bfloat16()
    expected = model(given)
    onednn_linear.use_onednn(model)
    assert torch.equal(model(given), expected) and "forward" not in vars(model[0])
    (said,) = caplog.messages
    assert "the product of laid-out weights is off and torch's own linear layers run: " in said


@pytest.mark.parametrize("change", [None, lambda given, weight, bias, *more: given.new_zeros(len(given), len(weight))])
def test_biases_in_bf16(change: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(products, "processor_has_bf16", lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", operators(_linear_pointwise=change))
    given, weight, bias = (torch.randn(shape).bfloat16() for shape in ((4, 48), (32, 48), (32,)))
    for _ in range(2):
        assert torch.equal(products.linear(given, weight, bias), nn.functional.linear(given, weight, bias))
    (said,) = caplog.messages
    assert "the product of oneDNN in bf16 is off and torch's own linear layers run: " in said


def test_a_processor_without_bf16_is_no_change_of_torch(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(onednn_linear, "processor_has_bf16", lambda: False)
    assert not onednn_linear.runs_in_onednn(torch.zeros(2, 2).bfloat16()) and not caplog.records


@pytest.mark.parametrize("change", ["gone", "other hooks", "parameters elsewhere"])
def test_a_models_stand_in(change: str, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    assert stand_in.runs_as_shipped(model)
    stand_in.modules_can_be_replaced.cache_clear()
    if change == "gone":
        monkeypatch.delattr(torch.nn.modules.module, "_has_any_global_hook")
    elif change == "other hooks":
        monkeypatch.setattr(stand_in, "HOOKS", (*stand_in.HOOKS, "_more_hooks"))
    else:
        monkeypatch.setattr(nn.LayerNorm, "forward", lambda module, values: values)
    assert not stand_in.runs_as_shipped(model) and not stand_in.runs_as_shipped(model)
    (said,) = caplog.messages
    assert "a model's stand-in is off and the model runs as transformers has it: " in said


def test_a_probe_runs_once_whatever_surrounds_it(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[bool, bool]] = []

    @self_check("a kernel", "nothing runs")
    def probe() -> bool:
        seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return torch.zeros(1).device.type == "cpu"

    with torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        assert probe() and probe()
    assert seen == [(False, False)] and not caplog.records


def test_what_a_probe_raises_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    @self_check("a kernel", "nothing runs")
    def probe() -> bool:
        raise RuntimeError("an error of\nmany lines")

    caplog.set_level(logging.WARNING)
    calls: list[Callable[[], bool]] = [probe, probe]
    assert not any(call() for call in calls)
    assert caplog.messages == [
        f"torch {torch.__version__} on this machine does not do what was expected, "
        "so a kernel is off and nothing runs: RuntimeError: an error of"
    ]
