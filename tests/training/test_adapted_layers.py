"""Layers that are given cross-attention in training: computed again, compiled, and gathered by FSDP with their layer."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from encdec_lightning import compose
from encdec_lightning.composition.adapter.decoder import decoder_layers
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.sides.cross_attention import is_cross_attention
from encdec_lightning.kernels.attention_interface import use_attention
from encdec_lightning.training.fsdp import layer_groups

GATED = {"cross_attention_gate": "zero"}
MERGED = {"cross_attention_kind": "merged"}
every_way = pytest.mark.parametrize(
    ("family", "options"),
    [("llama", GATED), ("gemma2", MERGED), ("llama", {"cross_attention_place": "after"})],
    ids=str,
)


def composed(files: tiny.Files, folder: str, **options: Any) -> ComposedModel:
    """A bert beside a decoder, in float64, without dropout and with open gates."""
    model = compose(files.bert, folder, dropout=0.0, **options).double()
    use_attention(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".gate"):
                parameter.fill_(0.5)
    return model.train()


def gradients(model: ComposedModel) -> dict[str, Tensor]:
    """Of a batch with padding, by name."""
    model.zero_grad()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    ids = (torch.arange(10).view(2, 5) + 5).where(mask > 0, 0)
    logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids[:, :3], use_cache=False).logits
    logits.square().mean().backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and len(found) > 10
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-14, msg=name)


@every_way
def test_reentrant_checkpointing_changes_no_gradient(files, probe, family, options):
    model = composed(files, probe.folder(family), **options)
    expected = gradients(model)
    name = "activation_checkpointing_enable"
    enable = getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")
    enable({"use_reentrant": True})
    assert_same(gradients(model), expected)


@pytest.mark.filterwarnings("ignore")  # of what dynamo itself does
@every_way
def test_a_layer_that_is_computed_again_is_one_graph(files, probe, family, options):
    """Dynamo would raise where it cannot follow; all layers share the graph."""
    model = composed(files, probe.folder(family), **options)
    expected = gradients(model)
    torch._dynamo.reset()
    counters.clear()
    tiny.checkpoint_activations(model, on=True)
    for layer in decoder_layers(model.decoder):
        layer.compile(dynamic=True, fullgraph=True, backend="eager")
    assert_same(gradients(model), expected)
    assert counters["stats"]["unique_graphs"] == 1


@every_way
def test_cross_attention_is_gathered_with_its_layer(files, probe, family, options):
    model = composed(files, probe.folder(family), **options)
    inside = {id(each) for group in layer_groups(model) for layer in group for each in layer.parameters()}
    added = [each for name, each in model.named_parameters() if is_cross_attention(name)]
    assert bool(added) == (options != MERGED) and all(id(each) in inside for each in added)
    assert len(layer_groups(model)) == 2 * tiny.LAYERS
