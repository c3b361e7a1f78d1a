"""How much memory a fit takes on each device: counted on a model without values, before anything is loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.training.arrange import arrange
from encdec_lightning.training.fsdp import layer_groups
from encdec_lightning.training.options import Training
from encdec_lightning.training.precision import low_dtype

DEVICES = 8
"""What several devices are where a job does not say."""
TRUE = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}
"""The dtypes of weights, where they are not fp32."""
COUNTED = "encdec_counted"
"""The name of attention whose memory is counted."""
WORDS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "activations": "activations",
    "copies": "copies: casts, buckets, gathered",
}


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """What the forward pass keeps for the backward pass, of one micro-batch; logits among it where our own loss, which
    keeps none, does not run: with gradient checkpointing, compiled layers, or FSDP."""
    copies: int
    """Weights that autocast casts; DDP's buckets, as large as the gradients; or the weights that FSDP has gathered, and
    the whole gradient of its largest group."""

    @property
    def total(self) -> int:
        """All of it at once: a fit stays below, for activations go as gradients come."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.copies


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What of a job decides how much memory it takes."""

    precision: str
    states: float
    """Numbers that the optimizer keeps for each trained one."""
    batch_tokens: int
    lengths: tuple[int, int]
    """The most tokens of a source and of a target."""
    training: Training


def memory_per_device(model: ComposedModel, setting: Setting, devices: int) -> dict[str, Memory]:
    """By the way to train: on one device, and on each of several. `model` is on the meta device."""
    dtype, low = TRUE.get(setting.precision, torch.float32), low_dtype(setting.precision)
    size = dtype.itemsize
    numbers, trained = _count(model), _count(model, lambda each: each.requires_grad)
    activations, logits = _activations(model, setting, low or dtype), _logits(model, setting, dtype)
    plain = activations + logits
    if setting.training.gradient_checkpointing or setting.training.compile:
        activations = plain
    casts = numbers * low.itemsize if low is not None and low != dtype else 0
    gathered = _gathered(model)
    one = Memory(size * numbers, size * trained, int(size * trained * setting.states), activations, casts)
    weights, gradients, states = (-(-part // devices) for part in (one.weights, one.gradients, one.optimizer))
    return {
        "1 device": one,
        f"DDP, {devices} devices": replace(one, copies=casts + (one.gradients if devices > 1 else 0)),
        f"FSDP2, {devices} devices": Memory(weights, gradients, states, plain, casts + size * gathered),
    }


def memory_table(found: dict[str, Memory], batch_tokens: int) -> Table:
    """A row for each part, a column for each way to train."""
    table = Table(title=f"Memory per device in MiB, micro-batches of {batch_tokens:,} tokens")
    table.add_column("", no_wrap=True)
    for name in found:
        table.add_column(name, justify="right", no_wrap=True)
    for field, words in WORDS.items():
        table.add_row(words, *(_mib(getattr(each, field)) for each in found.values()))
    table.add_row("all, at most", *(_mib(each.total) for each in found.values()))
    return table


def show_memory(found: dict[str, Memory], batch_tokens: int) -> None:
    """Print the table."""
    Console(width=110).print(memory_table(found, batch_tokens))


def states_of(optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]) -> float:
    """Numbers that an optimizer keeps for each number it trains, seen on a small matrix."""
    parameter = nn.Parameter(torch.ones(8, 8))
    parameter.grad = torch.ones_like(parameter)
    made = optimizer([{"params": [parameter], "lr": 1e-3, "weight_decay": 0.0}])
    made.step(lambda: 0.0)  # LBFGS takes no step without a function
    kept = [value for value in made.state[parameter].values() if isinstance(value, Tensor) and value.ndim > 0]
    return sum(value.numel() for value in kept) / parameter.numel()


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f}" if size >= 10 * 2**20 else f"{size / 2**20:,.2f}"


def _count(model: nn.Module, which: Callable[[nn.Parameter], bool] = lambda each: True) -> int:
    return sum(each.numel() for each in model.parameters() if which(each))


def _gathered(model: ComposedModel) -> int:
    """Numbers of the weights, and of the gradient, that are whole on a rank at once, at most.

    Groups of both sides stay gathered from the encoder to the decoder; of others this one and the next.
    """
    groups = layer_groups(model)
    sizes = [
        sum({id(each): each.numel() for module in group for each in module.parameters()}.values()) for group in groups
    ]
    pairs = [size for size, group in zip(sizes, groups, strict=True) if len(group) > 1]
    single = sorted(size for size, group in zip(sizes, groups, strict=True) if len(group) == 1)
    root = _count(model) - sum(sizes)
    return root + sum(pairs) + sum(single[-2:]) + max([root, *sizes])


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *given: Any, **more: Any
) -> tuple[Tensor, None]:
    """Attention that keeps its scores, as our kernels on a processor do, (B, H, T, D) each; masks add nothing."""
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) if groups > 1 else each for each in (key, value))
    scores = functional.softmax(query @ key.transpose(2, 3), dim=-1)
    return (functional.dropout(scores, 0.1) @ value).transpose(1, 2).contiguous(), None


# Without masks of its own, for which transformers would look into positions.
AttentionInterface.register(COUNTED, _attention)


def _logits(model: ComposedModel, setting: Setting, dtype: torch.dtype) -> int:
    """Bytes of the probabilities that a loss on all logits keeps, in fp32 or better."""
    if model.scores_sentences:
        return 0
    rows = max(1, setting.batch_tokens // sum(setting.lengths))
    precise = torch.promote_types(dtype, torch.float32)
    return rows * setting.lengths[1] * int(model.config.decoder.vocab_size) * precise.itemsize


def _activations(model: ComposedModel, setting: Setting, dtype: torch.dtype) -> int:
    """Bytes that a forward pass over a full micro-batch of the longest pairs saves; logits are not kept."""
    source, target = setting.lengths
    rows = max(1, setting.batch_tokens // (source + target))
    sized = copy.deepcopy(model).to(dtype).train()
    arrange(sized, Training(gradient_checkpointing=setting.training.gradient_checkpointing), None)
    for side in sized.sides.values():
        with suppress(ValueError):  # a family that has attention of its own
            side.set_attn_implementation(COUNTED)
    own = [each.untyped_storage() for each in [*sized.parameters(), *sized.buffers()]]
    known = {id(each) for each in own}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()  # one object, as long as somebody has it
        if id(storage) not in known:
            saved[id(storage)] = storage
        return tensor

    def ids(width: int) -> Tensor:
        return torch.zeros(rows, width, dtype=torch.long, device="meta")

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if sized.reads_prefix:
            sized.decoder(input_ids=ids(source + target), use_cache=False)
        elif sized.scores_sentences:
            sized(input_ids=ids(source), sentences=min(source, target))
        else:  # without a mask, which transformers would look into
            sized(input_ids=ids(source), decoder_input_ids=ids(target), use_cache=False)
    return sum(each.nbytes() for each in saved.values())
