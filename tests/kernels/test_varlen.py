from __future__ import annotations

import importlib.util
import inspect

import pytest
import torch
from torch.nn import functional
from varlen_stand_in import varlen_attn

from encdec_lightning import compose
from encdec_lightning.kernels import varlen
from encdec_lightning.kernels.attention_interface import packs_examples, use_attention
from encdec_lightning.kernels.packing import Packing

SOURCES, TARGETS = (7, 3, 5), (2, 4, 1)


@pytest.mark.parametrize("heads", [2, 4], ids=lambda heads: f"{heads} heads, 2 of keys")
@pytest.mark.parametrize("kind", ["source", "target", "cross"])
def test_each_example_attends_to_itself_alone(monkeypatch, kind: str, heads: int) -> None:
    """Outputs and gradients of what is handed to torch's function are those of each example by itself."""
    monkeypatch.setattr(varlen, "torch_varlen", lambda: varlen_attn)
    packing = Packing(SOURCES, TARGETS, (torch.tensor(SOURCES), torch.tensor(TARGETS)))
    queries, keys = SOURCES if kind == "source" else TARGETS, TARGETS if kind == "target" else SOURCES
    made = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(1, sum(each), number, 8, dtype=torch.float64, generator=made).requires_grad_()
        for each, number in ((queries, heads), (keys, 2), (keys, 2))
    ]
    given = [each.transpose(1, 2) for each in leaves]
    output = varlen.packed_varlen(*given, packing, 0.3, kind == "target")
    splits = [each.split(lengths, dim=2) for each, lengths in zip(given, (queries, keys, keys), strict=True)]
    asked = {"is_causal": kind == "target", "scale": 0.3, "enable_gqa": True}
    alone = [
        functional.scaled_dot_product_attention(q, k, v, **asked).transpose(1, 2)
        for q, k, v in zip(*splits, strict=True)
    ]
    expected = torch.cat(alone, dim=1)
    torch.testing.assert_close(output, expected)
    weights = torch.randn(expected.shape, dtype=torch.float64, generator=made)
    ours, theirs = (torch.autograd.grad((each * weights).sum(), leaves) for each in (output, expected))
    torch.testing.assert_close(ours, theirs)


def test_what_torch_has() -> None:
    """None before torch 2.10; since then it takes what `packed_varlen` gives, and no dropout."""
    found = varlen.torch_varlen()
    assert (found is not None) == (importlib.util.find_spec("torch.nn.attention.varlen") is not None)
    if found is not None:
        taken = inspect.signature(found).parameters
        assert {"scale", "window_size"} <= taken.keys()
        assert not [name for name in taken if "dropout" in name]


@pytest.mark.parametrize(
    ("change", "packs"),
    [
        ({}, True),
        ({"dropout": 0.1}, False),
        ({"dropout": 0.1, "evaluates": True}, True),
        ({"dtype": torch.float32}, False),
        ({"device": "meta"}, False),
        ({"no function": True}, False),
        ({"device": "cpu", "dropout": 0.1, "dtype": torch.float32}, True),
    ],
    ids=str,
)
def test_the_rule(files, monkeypatch, change: dict, packs: bool) -> None:
    monkeypatch.setattr(varlen, "torch_varlen", lambda: None if "no function" in change else varlen_attn)
    monkeypatch.setattr(varlen, "runs_flash_attention", lambda device: device.type == "cuda")
    model = compose(files.bert, files.gpt2, dropout=change.get("dropout", 0.0)).to(change.get("dtype", torch.bfloat16))
    use_attention(model.train("evaluates" not in change))
    assert packs_examples(model, torch.device(change.get("device", "cuda"))) == packs


def test_packing_tells_where_examples_start() -> None:
    packing = Packing((3, 2), (1, 1), (torch.tensor([3, 2]), torch.tensor([1, 1])))
    starts, longest = packing.starts(5)
    assert (starts.tolist(), starts.dtype, longest) == ([0, 3, 5], torch.int32, 3)
    assert packing.starts(2)[0].tolist() == [0, 1, 2]
