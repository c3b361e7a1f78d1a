"""Training, validation and generation on a device that is not the processor: the files `on_simulated_device*.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cases import some
from torch.utils import backend_registration

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "cases", some(["on_simulated_device.py", "on_simulated_device_fit.py"], "on_simulated_device.py")
)
def test_on_a_simulated_device(tmp_path, cases: str) -> None:
    """In a process of its own, for torch knows such a device until its process ends."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch takes no device that is written in Python")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "--tb=short", "-p", "no:cacheprovider"]
    command += [str(HERE / cases), f"--basetemp={tmp_path / 'inner'}"]
    done = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:]
