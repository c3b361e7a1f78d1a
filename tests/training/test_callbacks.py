from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from encdec_lightning.training.callbacks.random_state import RandomState


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_generators_continue_where_they_were_saved(tmp_path: Path) -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    draws()
    torch.save(RandomState().state_dict(), tmp_path / "state")
    expected = draws()
    callback = RandomState()
    callback.load_state_dict(torch.load(tmp_path / "state", weights_only=True))  # nothing has to be unpickled
    draws()  # what happens between loading and the start of training
    callback.on_train_start(SimpleNamespace(global_rank=0), None)
    assert draws() == expected
