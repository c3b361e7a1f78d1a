"""The device of each test in this folder: the processor in every run of the suite, so that the tests' own code is known to run; a GPU with `-m gpu`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU, and torch sees none")
    yield request.param
    if request.param == "cuda":  # whatever a test that failed has left
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def nobody_waits(device: str) -> Iterator[None]:
    """Within it, an operator that makes the processor wait for the GPU is an error."""
    if device == "cpu":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def waits_are_errors(device: str):
    return lambda: nobody_waits(device)
