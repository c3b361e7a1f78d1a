"""What a training step does where tensors are not on the processor: nothing waits for the device.

There is no device here: tensors on torch's `meta` device have shapes and no values. Whoever asks for a value fails.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from encdec_lightning import compose
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.kernels.attention_interface import use_attention
from encdec_lightning.training.loss import TrainingLoss

WAITING = (
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.item",
    "aten.masked_select",
    "aten.equal",
    "aten.is_nonzero",
)
"""Operators whose results the processor needs before it goes on; boolean indexing runs `nonzero`."""


class Recorded(TorchDispatchMode):
    """Counts operators, and those that meet tensors of the processor's."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.of_processor: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        self.operators[str(operator)] += 1
        tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, torch.Tensor)]
        if any(each.device.type == "cpu" for each in tensors):
            self.of_processor[str(operator)] += 1
        return result


def a_batch(padded: bool) -> Batch:
    lengths = torch.tensor([7, 5, 3]) if padded else torch.tensor([7, 7, 7])
    sources, targets = torch.randint(5, 50, (3, 7)), torch.randint(5, 50, (3, 4))
    return Batch((), 3, sources, lengths, targets, targets, torch.tensor([4, 2, 3]), 9, 24)


@pytest.fixture
def without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` has none."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("pair", ["bert-bert", "bert-gpt2", "roberta-roberta", "gpt2 alone"])
def test_no_step_waits(files, without_autocast, pair: str, padded: bool) -> None:
    encoder, _, decoder = pair.rpartition("-")
    model = compose(getattr(files, encoder) if encoder else None, getattr(files, decoder.removesuffix(" alone")))
    use_attention(model)
    loss_of = TrainingLoss(model)
    loss_of(a_batch(padded))  # what it finds out of a model, once
    model.to("meta")
    loss_of._head = model.get_output_embeddings()
    batch = a_batch(padded).to("meta")
    with Recorded() as seen:
        loss = loss_of(batch, 0.1)
        loss.backward()
    assert loss.device.type == "meta"
    second_names = ("decoder.cls.predictions.bias", "decoder.lm_head.bias")  # of the head's bias: to("meta") parts them
    without = [name for name, each in model.named_parameters() if each.grad is None]
    assert [name for name in without if name not in second_names] == []
    assert [name for name in seen.operators if name.startswith(WAITING)] == []
    assert seen.of_processor == {}
    assert sum(seen.operators.values()) > 100  # it has seen the step


def test_a_step_that_waits_is_found(files, without_autocast) -> None:
    with pytest.raises(RuntimeError, match="meta"), Recorded():
        bool((torch.ones(3, device="meta") > 0).all())
