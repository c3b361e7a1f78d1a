"""What commands say to torch before it is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, sys
from encdec_lightning.cli.arguments import BEFORE_TORCH, command
assert "torch" not in sys.modules
command(lambda: print(json.dumps({name: os.environ.get(name) for name in BEFORE_TORCH})))
"""


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, ["10000", "64", "64"]),
        ({"LRU_CACHE_CAPACITY": "7"}, ["10000", "7", "64"]),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, [None, "64", "64"]),
    ],
)
def test_the_environment_is_set_where_the_user_has_not(chosen: dict[str, str], expected: list[str | None]) -> None:
    names = ("GOMP_SPINCOUNT", "LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names} | chosen
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True
    )
    assert list(json.loads(output.stdout).values()) == expected
