"""One model of its sides, or of a saved config: the only place that chooses between the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import EncoderDecoderConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.model import EncoderDecoder
from encdec_lightning.composition.options import Composition
from encdec_lightning.composition.prefix import PrefixDecoder, PrefixDecoderConfig, prefix_decoder
from encdec_lightning.composition.sentence_scorer import DROPOUT, SentenceScorer, SentenceScorerConfig, sentence_scorer


def assemble(models: Sequence[PreTrainedModel], composition: Composition) -> ComposedModel:
    """One model of its sides; what `composition.weights` names becomes one Parameter, with the encoder's values."""
    kept: dict[str, Any] = {"composition": vars(composition).copy(), "fresh_parameters": []}
    if composition.reads_prefix:
        (decoder,) = models
        return prefix_decoder(decoder, kept)
    if composition.scores_sentences:
        (encoder,) = models
        kept["sentence_dropout"] = DROPOUT if composition.dropout is None else composition.dropout
        return sentence_scorer(encoder, kept)
    encoder, decoder = models
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config)
    config.dtype = encoder.dtype
    for name, value in kept.items():
        setattr(config, name, value)
    model = EncoderDecoder(config=config, encoder=encoder, decoder=decoder)
    model.tie_weights()
    return model


def rebuild(config: dict[str, Any]) -> ComposedModel:
    """The model of a config that `model.config.to_dict()` gave, in torch's default dtype.

    Its parameters hold whatever was in memory: drawing values that are read from a checkpoint next takes seconds.
    """
    model: ComposedModel
    with no_init_weights():
        if config["model_type"] == PrefixDecoderConfig.model_type:
            model = PrefixDecoder(PrefixDecoderConfig.from_dict(config))
        elif config["model_type"] == SentenceScorerConfig.model_type:
            model = SentenceScorer(SentenceScorerConfig.from_dict(config))
        else:
            model = EncoderDecoder(EncoderDecoderConfig.from_dict(config))
    model.tie_weights()  # which is left out there too
    model.config.dtype = model.dtype
    return model
