"""Where the sentences of a source end, as a model that scores them was told."""

from __future__ import annotations

import sentencex

from encdec_lightning.composition.options import LINES


def split_sentences(text: str, rule: str) -> list[str]:
    """The sentences of a text, each on one line with single spaces: its lines, or by the rules of a language."""
    parts = text.splitlines() if rule == LINES else sentencex.segment(rule, text)
    return [line for part in parts if (line := " ".join(part.split()))]
