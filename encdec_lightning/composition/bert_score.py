"""BERTScore (Zhang et al. 2020): texts compared by the vectors that an encoder gives their tokens.

It lies here and not in evaluation/, which knows texts alone, because it opens a checkpoint. torchmetrics' own gives
other values: it sorts texts by length and then undoes that by the sorting indices, not by their inverse.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, PreTrainedTokenizerBase

from encdec_lightning.composition.architectures import ARCHITECTURES, length_limit
from encdec_lightning.composition.checkpoints import load_config, load_tokenizer, load_weights
from encdec_lightning.errors import UserError
from encdec_lightning.records import Prediction

TOGETHER = 256
"""Predictions whose vectors are in memory at once."""
BATCH = 32
"""Texts that the encoder reads at once."""


class BertScore:
    """Precision, recall and F1 of matching each token with the most similar one of the other text, in percent.

    Of several references the best counts, for each of the three values. Neither rare words count more (idf), nor are
    values rescaled by a baseline.
    """

    names = "bertscore_precision", "bertscore_recall", "bertscore"
    higher_is_better = True

    def __init__(self, checkpoint: str, layer: int | None = None) -> None:
        """With the vectors of a layer of an encoder, the last one by default; 0 is the embeddings.

        Of an encoder-decoder such as bart it is a layer of the encoder, as in the package bert-score.
        Raises `UserError` for a layer that the checkpoint does not have, and for one whose tokenizer does not put a
        token before and one behind each text.
        """
        config = load_config("checkpoint", checkpoint)
        depth = getattr(config, "num_hidden_layers", None)
        if not isinstance(depth, int):  # an encoder-decoder of two checkpoints
            expected = f"its family {config.model_type} has no layers of its own; give the checkpoint of an encoder"
            raise UserError("checkpoint", checkpoint, expected)
        if layer is not None and not 0 <= layer <= depth:
            raise UserError("layer", layer, f"{checkpoint} has {depth} layers: it must lie in [0, {depth}]")
        self._checkpoint, self._layer = checkpoint, depth if layer is None else layer
        settings = f"checkpoint:{checkpoint}|layer:{self._layer}|idf:no|rescaled:no|references:best"
        self.signature = f"{settings}|transformers:{version('transformers')}"

    def prepare(self) -> None:
        """Fetch and open the encoder, for a job that will have no network."""
        _opened(self._checkpoint)

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """Precision, recall and F1 of one prediction, (3,)."""
        (row,) = self.statistics_of([prediction])
        return np.asarray(row)

    def statistics_of(self, predictions: Sequence[Prediction]) -> NDArray[np.float64]:
        """The same of several, (N, 3), which is faster: each text is read once, beside others of its length."""
        found = np.zeros((len(predictions), 3))
        for start in range(0, len(predictions), TOGETHER):
            some = predictions[start : start + TOGETHER]
            vectors = self._vectors({text for each in some for text in (each.prediction, *each.references)})
            for row, each in enumerate(some, start=start):
                own = vectors[each.prediction]
                found[row] = np.max([_matched(own, vectors[text]) for text in each.references], axis=0)
        return found

    def _vectors(self, texts: set[str]) -> dict[str, torch.Tensor]:
        """For each text the vectors of its tokens, of length 1, without the special tokens around it: (T, H)."""
        model, tokenizer, longest = _opened(self._checkpoint)
        ordered = sorted(texts, key=lambda text: (len(text), text))
        encoded = tokenizer(ordered, truncation=True, max_length=longest)["input_ids"]
        found: dict[str, torch.Tensor] = {}
        for part, ids in zip(_batched(ordered, BATCH), _batched(encoded, BATCH), strict=True):
            given = tokenizer.pad({"input_ids": list(ids)}, padding_side="right", return_tensors="pt").to(model.device)
            inputs = {name: given[name] for name in ("input_ids", "attention_mask")}
            with torch.inference_mode():
                hidden = model(**inputs, output_hidden_states=True).hidden_states[self._layer]
            unit = torch.nn.functional.normalize(hidden.float(), dim=-1).cpu()
            found |= {text: unit[row, 1 : len(ids[row]) - 1] for row, text in enumerate(part)}
        return found

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """The means, in percent."""
        means: NDArray[np.float64] = 100 * total / count
        return means


def _matched(own: torch.Tensor, right: torch.Tensor) -> tuple[float, float, float]:
    """Precision, recall and F1 of vectors (T, H) and (R, H); zeros where a text has no token (section 3)."""
    if not len(own) or not len(right):
        return 0.0, 0.0, 0.0
    similar = own @ right.T
    precision, recall = float(similar.amax(1).mean()), float(similar.amax(0).mean())
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _batched(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """The values, so many at a time; `itertools.batched` is Python 3.12's."""
    return [values[start : start + size] for start in range(0, len(values), size)]


@functools.lru_cache(maxsize=1)
def _opened(checkpoint: str) -> tuple[Any, PreTrainedTokenizerBase, int]:
    """The encoder, its tokenizer and the most tokens that it reads."""
    config, tokenizer = load_config("checkpoint", checkpoint), load_tokenizer("checkpoint", checkpoint)
    special = set(tokenizer.all_special_ids)
    first, *_, last = tokenizer("a text")["input_ids"]
    if not {first, last} <= special:
        expected = "BERTScore needs a tokenizer that puts a special token before and one behind each text, as BERT's"
        raise UserError("task.metrics", f"bertscore.checkpoint {checkpoint}", expected)
    model, _ = load_weights(AutoModel, "checkpoint", checkpoint, config)
    if config.is_encoder_decoder:
        model = model.get_encoder()
    limit = length_limit(config) if config.model_type in ARCHITECTURES else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().to(device), tokenizer, min(limit or 512, 512)
