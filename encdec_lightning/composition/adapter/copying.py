"""Which parameters of self-attention the added cross-attention can start as a copy of (T5Gemma's balanced pairs)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor
from transformers import PreTrainedModel

from encdec_lightning.composition.adapter.cross_attention import CrossAttention
from encdec_lightning.composition.architectures import layout_of
from encdec_lightning.composition.layout import Fused, Layout

Part = Callable[[Tensor], Tensor]
"""What takes of a parameter of self-attention what has the meaning of cross-attention's."""


def self_attention_parts(decoder: PreTrainedModel) -> dict[str, tuple[str, Part]] | None:
    """{each cross-attention parameter: self-attention's of the same meaning, and the part of it}; None if some differ.

    A gate has no such parameter.
    """
    layout = layout_of(decoder.config)
    parameters = dict(decoder.named_parameters(remove_duplicate=False))
    found: dict[str, tuple[str, Part]] = {}
    for name, module in decoder.named_modules():
        if not isinstance(module, CrossAttention):
            continue
        layer = name.removesuffix(".cross_attention")
        for own, other, part in _pairs(module, layout):
            if own == "norm" and f"{layer}.{other}.weight" not in parameters:
                other = str(layout.between)  # modernbert's first layer has no norm before self-attention
            for kind in ("weight", "bias"):
                target, source = f"{name}.{own}.{kind}", f"{layer}.{other}.{kind}"
                if target not in parameters:
                    continue
                if source not in parameters or part(parameters[source]).shape != parameters[target].shape:
                    return None
                found[target] = source, part
    return found


def _pairs(cross: CrossAttention, layout: Layout) -> Iterator[tuple[str, str, Part]]:
    """(module of cross-attention, module of the layer, the part of its parameters)."""
    names = layout.queries_keys_values.split()
    for number, projection in enumerate(("q_proj", "k_proj", "v_proj")):
        if layout.fused is None:
            yield projection, f"{layout.attention}.{names[number]}", _whole
        else:
            yield projection, f"{layout.attention}.{names[0]}", _rows(layout.fused, cross, number)
    yield "o_proj", f"{layout.attention}.{layout.output}", _whole
    for norm, name in zip(("q_norm", "k_norm"), layout.norms, strict=True):
        yield norm, f"{layout.attention}.{name}", _whole
    if layout.before is not None:
        yield "norm", layout.before, _whole
    if layout.after is not None:
        yield "post_norm", layout.after, _whole


def _whole(tensor: Tensor) -> Tensor:
    return tensor


def _rows(fused: Fused, cross: CrossAttention, number: int) -> Part:
    """The rows of a fused tensor (R, ...) that make queries (0), keys (1) or values (2)."""
    heads, size, groups = cross.heads, cross.head_dim, cross.groups
    shape = {
        "by head": (heads, 3, size),
        "by group": (groups, heads // groups + 2, size),
        "one group": (1, heads + 2, size),
    }[fused]
    of_group = {0: slice(0, -2), 1: slice(-2, -1), 2: slice(-1, None)}[number]
    chosen = slice(number, number + 1) if fused == "by head" else of_group
    return lambda tensor: tensor.unflatten(0, shape)[:, chosen].flatten(0, 2)
