"""What a fit is about to do, in a few lines, before its progress begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from encdec_lightning.composition.options import Composition
from encdec_lightning.composition.parameters import Counts, Trained
from encdec_lightning.composition.sharing import SCHEMES
from encdec_lightning.run import Run

SPLITS = {"train": "training"}


def opening(
    run: Run, composition: Composition, counts: Counts, trained: Trained, pairs: Mapping[str, int], training: str
) -> str:
    """Lines for the model, the data, the training and the folder.

    `pairs` is {split: number of pairs}, and `training` says how long the fit is and on what it runs.
    """
    names = [_short(side.checkpoint) for side in composition.sides]
    if len(names) == 1:
        pair = f"{names[0]} alone{', sentences scored' if composition.scores_sentences else ''}"
    else:
        pair = f"{' -> '.join(names)}, {SCHEMES[composition.weights].label}"
    parts = {"shared by both sides": counts.shared, "random at the start": counts.random}
    parts["trained"] = 0 if trained.total == counts.total else trained.total
    parts["of these for LoRA"] = trained.lora
    told = "".join(f", {number:,} {what}" for what, number in parts.items() if number)
    rows = {
        "model": f"{pair}: {counts.total:,} parameters{told}",
        "data": ", ".join(f"{number:,} {SPLITS.get(split, split)} pairs" for split, number in pairs.items()),
        "training": training,
        "run": str(run.folder),
    }
    return "\n".join(f"{name:<10}{text}" for name, text in rows.items())


def _short(checkpoint: str) -> str:
    """The name of a checkpoint without its owner or folder."""
    return PurePath(checkpoint).name.rpartition("--")[2]
