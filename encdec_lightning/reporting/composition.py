"""A composed model as a person, or a program, wants to see it before it is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import PretrainedConfig

from encdec_lightning.composition.architectures import depth, length_limit
from encdec_lightning.composition.cross_attending import MODEL_TYPE, family
from encdec_lightning.composition.options import Composition, Side
from encdec_lightning.composition.paper import PaperRow, has_printed_size, paper_row
from encdec_lightning.composition.parameters import ParameterTable, Trained
from encdec_lightning.composition.sides.config import layer_numbers, side_config, stored_config
from encdec_lightning.errors import UserError
from encdec_lightning.reporting.memory import Memory

COUNTS = {
    "total": "parameters",
    "embedding": "in embeddings",
    "pretrained": "initialized from checkpoints",
    "random": "random",
    "shared": "shared by the sides",
    "encoder": "encoder",
    "decoder": "decoder",
    "cross_attention": "in cross-attention",
}
WIDTH = 110
PRINTED = {"total": "total", "embedding": "embedding", "pretrained": "initialized", "random": "random"}


def describe(
    composition: Composition,
    parameters: ParameterTable,
    special_tokens: dict[str, Any] | None,
    trained: Trained | None = None,
    memory: dict[str, Memory] | None = None,
) -> dict[str, Any]:
    """All that the report says, as plain values: what `--json` prints."""
    row = paper_row(composition)
    return {
        "ok": True,
        "sides": [_side(side) for side in composition.sides],
        "added": _added(composition),
        "weights": composition.weights,
        "special_tokens": special_tokens,
        "parameters": {"as_built": asdict(parameters.as_built), "by_the_paper": asdict(parameters.by_the_paper)},
        "trained": trained and asdict(trained),
        "paper": None if row is None else {**asdict(row), "same_size": has_printed_size(composition)},
        "memory": memory and {name: {**asdict(each), "total": each.total} for name, each in memory.items()},
    }


def problems(found: Sequence[UserError]) -> dict[str, Any]:
    """Why a configuration is refused, as plain values."""
    return {
        "ok": False,
        "problems": [{"field": each.field, "value": each.value, "expected": each.expected} for each in found],
    }


def show_composition(
    composition: Composition,
    parameters: ParameterTable,
    special_tokens: dict[str, Any] | None,
    trained: Trained | None = None,
    console: Console | None = None,
) -> None:
    """Print what will be built: the sides, their special tokens, and the table of parameters."""
    console = console or _console()
    for each in (_side(side) for side in composition.sides):
        console.print(f"[bold]{each['role']}[/]  {escape(_sentence(each))}", highlight=False, soft_wrap=True)
    given = _added(composition)
    if given is not None:
        console.print(f"[bold]added[/]    {what_is_added(given)}", highlight=False, soft_wrap=True)
    if special_tokens is None:
        console.print("[bold]tokens[/]   the tokenizers are not on this machine", highlight=False)
    else:
        words = ", ".join(f"{name} {text!r} ({number})" for name, (text, number) in special_tokens.items())
        console.print(f"[bold]tokens[/]   {escape(words)}", highlight=False, soft_wrap=True)
    console.print(parameter_table(composition, parameters))
    if parameters.head:
        counted = "the transform before the softmax and its bias, which the paper's rule leaves out"
        console.print(f"{parameters.head:,} are {counted}.", highlight=False)
    if trained is not None and (trained.lora or trained.total < parameters.as_built.total):
        lora = f"; {trained.lora:,} of them are LoRA's, beside the model's own" if trained.lora else ""
        console.print(f"{trained.total:,} parameters are trained{lora}.", highlight=False)
    row = paper_row(composition)
    if row is not None and row.note and has_printed_size(composition):
        console.print(f"{row.variant}: {row.note}.", highlight=False)


def parameter_table(composition: Composition, parameters: ParameterTable) -> Table:
    """Rows: what is counted. Columns: as built, by the paper's rule, and as printed where the paper has this model."""
    row = paper_row(composition)
    printed = row if row is not None and has_printed_size(composition) else None
    table = Table(title=f"Parameters of {row.variant}" if row is not None else "Parameters")
    table.add_column("", no_wrap=True)
    for name in ("as built", "by paper's rule", *(["printed"] if printed else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for name, words in COUNTS.items():
        cells = [f"{getattr(counts, name):,}" for counts in (parameters.as_built, parameters.by_the_paper)]
        if printed is not None:
            cells.append(f"{getattr(printed, PRINTED[name])}M" if name in PRINTED else "")
        table.add_row(words, *cells)
    return table


def show_variants(rows: Sequence[tuple[str, Composition, ParameterTable]]) -> None:
    """Print a line for each variant."""
    _console().print(variant_table(rows))


def variant_table(rows: Sequence[tuple[str, Composition, ParameterTable]]) -> Table:
    """A line for each variant: totals as built, by the paper's rule and as printed, and where values come from."""
    table = Table(title="The variants of Rothe et al., table 1 (printed: total/initialized/random in millions)")
    table.add_column("", no_wrap=True)
    for name in ("as built", "paper's rule", "initialized", "random", "shared", "printed"):
        table.add_column(name, justify="right", no_wrap=True)
    for variant, composition, parameters in rows:
        counts = parameters.by_the_paper
        row = paper_row(composition)
        table.add_row(
            variant,
            f"{parameters.as_built.total:,}",
            *(f"{number:,}" for number in (counts.total, counts.pretrained, counts.random, counts.shared)),
            _printed(row) if row is not None and has_printed_size(composition) else "",
        )
    return table


def _console() -> Console:
    """Wide enough that no figure is cut: a narrow terminal, or a pipe, breaks lines instead."""
    console = Console(emoji=False)
    console.width = max(console.width, WIDTH)
    return console


def _printed(row: PaperRow) -> str:
    return f"{row.total}/{row.initialized}/{row.random}"


def _side(side: Side) -> dict[str, Any]:
    config = side_config(side)
    return {
        "role": side.role,
        "checkpoint": side.checkpoint,
        "family": family(config),
        "init": side.init,
        "layers": len(layer_numbers(side, config)) if side.layers is None else side.layers,
        "hidden_size": config.hidden_size,
        "vocabulary": side.vocabulary,
        "vocabulary_size": config.vocab_size,
        "positions": length_limit(config),
        "bidirectional": side.bidirectional or side.role == "encoder",
    }


def _added(composition: Composition) -> dict[str, Any] | None:
    """The cross-attention that a language model is given; None where none is."""
    decoder = composition.sides[-1]  # an encoder alone is given none either
    if decoder.added is None or stored_config(decoder).model_type == MODEL_TYPE:
        return None
    return added(side_config(decoder), composition.cross_attention_init)


def added(decoder: PretrainedConfig, init: str) -> dict[str, Any] | None:
    """The cross-attention that a decoder's config says was given to a language model, and how it starts."""
    if decoder.model_type != MODEL_TYPE:
        return None
    every, is_merged = decoder.cross_attention_every, decoder.cross_attention_kind == "merged"
    return {
        "kind": decoder.cross_attention_kind,
        "place": None if is_merged else decoder.cross_attention_place,
        "layers": list(range(every, depth(decoder) + 1, every)),
        "start": None if is_merged else "as its self-attention" if init == "self_attention" else "at random",
        "gate": decoder.cross_attention_gate,
    }


def what_is_added(found: dict[str, Any]) -> str:
    """The same in words."""
    layers = found["layers"]
    step = layers[1] - layers[0] if len(layers) > 1 else 1
    where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
    if step > 1:
        where = f"layers {', '.join(map(str, layers))}"
    if found["kind"] == "merged":
        return f"self-attention of {where} reads the source as well, by its own projections"
    place = "after the feed-forward part" if found["place"] == "after" else "between self-attention and feed-forward"
    gate = "; a gate, closed at the start" if found["gate"] == "zero" else ""
    return f"cross-attention {place} in {where}, which starts {found['start']}{gate}"


def _sentence(side: dict[str, Any]) -> str:
    layers = side["layers"] if isinstance(side["layers"], int) else f"layers {side['layers']}"
    return (
        f"{side['checkpoint']} ({side['family']}, {layers}{' layers' if isinstance(layers, int) else ''}, "
        f"{side['hidden_size']} wide, {side['vocabulary_size']:,} words"
        f"{' of ' + side['vocabulary'] if side['vocabulary'] else ''}, "
        f"{side['positions'] or 'unlimited'} positions), "
        f"{'random' if side['init'] == 'random' else side['init'] + (' only' if side['init'] != 'pretrained' else '')}"
    )
