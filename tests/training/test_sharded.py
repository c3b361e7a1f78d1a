"""Two real processes train what one does: DDP and FSDP2, whatever the sides share, with other tokens on each rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from on_ranks import WEIGHTS, Case, fit, two_ranks
from tiny import Files

STRATEGIES = ("ddp", "fsdp2")
EXACT = [Case(strategy, weights) for strategy in STRATEGIES for weights in WEIGHTS]
IN_FP32 = [Case(strategy, weights, "32-true", steps=1) for strategy in STRATEGIES for weights in WEIGHTS]


@pytest.fixture(scope="module")
def ranks(files: Files, tmp_path_factory) -> dict[Case, dict[str, Any]]:
    """What two ranks find in every case, by one pair of processes."""
    folder = tmp_path_factory.mktemp("ranks")
    cases = [*EXACT, *IN_FP32]
    return dict(zip(cases, two_ranks(files, cases, folder), strict=True))


@pytest.fixture(scope="module")
def alone(files: Files, tmp_path_factory):
    """What one process finds in a case, computed once."""
    folder, found = tmp_path_factory.mktemp("alone"), {}

    def of(case: Case) -> dict[str, Any]:
        own = Case("auto", case.weights, case.precision, case.steps)
        if own not in found:
            found[own] = fit(files, own, folder)
        return found[own]

    return of


@pytest.mark.parametrize("case", EXACT, ids=lambda case: f"{case.strategy}-{case.weights}")
def test_in_float64_two_ranks_end_with_the_weights_of_one(case, ranks, alone):
    found, expected = ranks[case], alone(case)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=0, atol=1e-10, msg=name)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-10)
    assert found["validated"] == pytest.approx(expected["validated"], rel=1e-6)
    assert found["texts"] == expected["texts"]
    assert found["tested"] == expected["tested"]


@pytest.mark.parametrize("case", IN_FP32, ids=lambda case: f"{case.strategy}-{case.weights}")
def test_in_fp32_the_first_step_is_that_of_one(case, ranks, alone):
    found, expected = ranks[case], alone(case)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert found["gradients"].keys() == expected["gradients"].keys()
    difference = sum(float((found["gradients"][name] - each).double().square().sum()) for name, each in expected["gradients"].items())
    norm = sum(float(each.double().square().sum()) for each in expected["gradients"].values())
    assert difference**0.5 <= 1e-6 * norm**0.5
