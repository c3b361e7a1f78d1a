"""ROUGE (Lin 2004): F1 in percent, to the last digit those of Google's rouge-score, several times as fast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rouge_score.scoring import fmeasure

from encdec_lightning.errors import require
from encdec_lightning.evaluation.sentences import lines_or_sentences
from encdec_lightning.evaluation.subsequence import common_length, common_places
from encdec_lightning.evaluation.words import TOKENIZERS, Tokenizer, Words, grams
from encdec_lightning.records import Prediction

Type = Literal["rouge1", "rouge2", "rougeL", "rougeLsum"]
Several = Literal["best", "mean"]


class Rouge:
    """Mean F1 over examples.

    Args:
        types: n-grams of one and two words, the longest common subsequence of the texts (`rougeL`), and that of their
            sentences (`rougeLsum`). Lines are sentences; a text of one line is split by the rule in sentences.py.
        tokenizer: `ascii`, as in the papers, knows the letters a-z and digits alone: accented letters split words, and
            a reference in another script is `unscorable`. `unicode` knows all scripts.
        stemmer: Porter's.
        references: of several, the `best` one for each type, or the `mean` over them.
    """

    higher_is_better: bool = True

    def __init__(
        self,
        types: Sequence[Type] = ("rouge1", "rouge2", "rougeL"),
        tokenizer: Tokenizer = "ascii",
        stemmer: bool = True,
        references: Several = "best",
    ) -> None:
        require(
            ("types", types, len(types) > 0 and {*types} <= {*_TYPES}, f"they are some of {', '.join(_TYPES)}"),
            ("tokenizer", tokenizer, tokenizer in TOKENIZERS, "it must be ascii or unicode"),
            ("references", references, references in ("best", "mean"), "it must be best or mean"),
        )
        self.names: tuple[str, ...] = tuple(types)
        self.compares = "the letters a-z and digits" if tokenizer == "ascii" else "letters and digits"
        self._words = Words(tokenizer, stemmer)
        self._best = references == "best"
        told = [
            "f1",
            f"stemmer:{'porter' if stemmer else 'none'}",
            f"tokenizer:{tokenizer}",
            f"references:{references}",
        ]
        told += ["sentences:lines or rule"] if "rougeLsum" in types else []
        self.signature = "|".join([*told, f"rouge-score:{version('rouge-score')}"])

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """The F1 of one example, each in 0..1; shape (len(types),). A text without a word scores 0."""
        found = [self._scores(reference, prediction.prediction) for reference in prediction.references]
        return np.max(found, axis=0) if self._best else np.mean(found, axis=0)  # type: ignore[no-any-return]

    def _scores(self, reference: str, prediction: str) -> list[float]:
        words = self._words.tokenize(reference), self._words.tokenize(prediction)
        return [
            self._of_sentences(reference, prediction) if name == "rougeLsum" else _TYPES[name](*words)
            for name in self.names
        ]

    def _of_sentences(self, reference: str, prediction: str) -> float:
        """Lin (2004), section 3.2: a word counts once however many of the prediction's sentences have it in common."""
        right, own = (
            [self._words.tokenize(sentence) for sentence in lines_or_sentences(text)]
            for text in (reference, prediction)
        )
        left = Counter(chain(*own)) & Counter(chain(*right))
        sizes = sum(map(len, own)), sum(map(len, right))
        matched = 0
        for sentence in right:
            for place in sorted({place for other in own for place in common_places(sentence, other)}):
                if left[sentence[place]] > 0:
                    left[sentence[place]] -= 1
                    matched += 1
        return _f1(matched, *sizes)

    def unscorable(self, reference: str) -> bool:
        """Whether the reference has no word, so that every prediction scores 0."""
        return not self._words.tokenize(reference)

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Means in percent; (..., len(types)) to the same shape."""
        return 100.0 * total / count


def _f1(matched: int, in_prediction: int, in_reference: int) -> float:
    return float(fmeasure(matched / max(in_prediction, 1), matched / max(in_reference, 1)))


def _of_grams(n: int) -> Callable[[list[str], list[str]], float]:
    def f1(reference: list[str], prediction: list[str]) -> float:
        counts = Counter(grams(reference, n)), Counter(grams(prediction, n))
        return _f1((counts[0] & counts[1]).total(), counts[1].total(), counts[0].total())

    return f1


def _of_subsequence(reference: list[str], prediction: list[str]) -> float:
    return _f1(common_length(reference, prediction), len(prediction), len(reference))


_TYPES: dict[str, Callable[[list[str], list[str]], float]] = {
    "rouge1": _of_grams(1),
    "rouge2": _of_grams(2),
    "rougeL": _of_subsequence,
    "rougeLsum": _of_subsequence,
}
