"""`PrefixDecoder`: a decoder alone that reads the source as a prefix (GPT of Rothe et al., section 3)."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cache,
    EncoderDecoderCache,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from encdec_lightning.composition.architectures import ARCHITECTURES
from encdec_lightning.composition.checkpoints import load_config, load_weights
from encdec_lightning.composition.foreign import built
from encdec_lightning.composition.options import Composition
from encdec_lightning.composition.sharing import Shared
from encdec_lightning.errors import UserError

KEPT = ("composition", "fresh_parameters")
"""What an exported folder's config holds beside the decoder's own values."""


class PrefixDecoderConfig(PretrainedConfig):  # type: ignore[misc]
    """The decoder's config, one level down, as that of an encoder-decoder has it."""

    model_type = "prefix-decoder"
    sub_configs: ClassVar[dict[str, Any]] = {"decoder": AutoConfig}
    decoder: PretrainedConfig | dict[str, Any] | None = None
    is_encoder_decoder: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.decoder, dict):
            values = dict(self.decoder)
            self.decoder = AutoConfig.for_model(values.pop("model_type"), **values)
        super().__post_init__(**kwargs)


class PrefixDecoder(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The source, then the target, through one causal language model; forward and `generate` are an encoder-decoder's.

    A row is `source tokens, start, target tokens`. Padding between source and start is masked, and positions count real
    tokens only, so that a batch gives what its rows give alone. Constraints of generation see the target alone.
    """

    config_class = PrefixDecoderConfig
    base_model_prefix = "prefix_decoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: PrefixDecoderConfig, decoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.decoder = built(AutoModelForCausalLM, config.decoder) if decoder is None else decoder
        self.config.decoder = self.decoder.config  # the one that knows which attention it runs
        self.shared: Shared = {}
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """What turns a source into the `encoder_outputs` that `forward` takes: its embeddings."""
        return _Embed(self.decoder.get_input_embeddings())

    def get_input_embeddings(self) -> nn.Module:
        """The decoder's, which serve the source too."""
        embeddings: nn.Module = self.decoder.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        """The decoder's."""
        head: nn.Module = self.decoder.get_output_embeddings()
        return head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Logits (B, T, V) of the T target tokens after each of `decoder_input_ids` (B, T).

        The source is `input_ids` (B, S), or its embeddings as `encoder_outputs`; `attention_mask` (B, S) is 1 at real
        tokens. With a cache that is not empty the source is in it, and the target's new tokens alone are read.
        """
        embed = self.decoder.get_input_embeddings()
        if encoder_outputs is None:
            encoder_outputs = (embed(input_ids),)
        source, target = encoder_outputs[0], embed(decoder_input_ids)
        if attention_mask is None:
            attention_mask = source.new_ones(source.shape[:2], dtype=torch.long)
        cache = past_key_values
        if isinstance(past_key_values, EncoderDecoderCache):
            cache = past_key_values.self_attention_cache
        seen = 0 if cache is None else int(cache.get_seq_length())
        embeddings = target if seen else torch.cat([source, target], dim=1)
        mask = nn.functional.pad(attention_mask, (0, seen + embeddings.shape[1] - source.shape[1]), value=1)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, seen:]
        output = self.decoder(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=use_cache,
            logits_to_keep=target.shape[1],
        )
        return Seq2SeqLMOutput(logits=output.logits, past_key_values=past_key_values or output.past_key_values)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The inputs of one step of generation: with a filled cache the last token alone."""
        cached = past_key_values is not None and int(past_key_values.get_seq_length()) > 0
        return {
            "decoder_input_ids": input_ids[:, -1:] if cached else input_ids,
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "encoder_outputs": encoder_outputs,
            "use_cache": use_cache,
        }

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write the plain language model, which `AutoModelForCausalLM` opens."""
        for name in KEPT:
            setattr(self.decoder.config, name, getattr(self.config, name))
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(self.decoder.generation_config, name, getattr(self.generation_config, name))
        state = kwargs.pop("state_dict", None)
        if state is not None:
            kwargs["state_dict"] = {name.removeprefix("decoder."): tensor for name, tensor in state.items()}
        self.decoder.save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **kwargs: Any) -> PrefixDecoder:
        """Open a folder of `save_pretrained`, or of any language model. Raises `UserError` if tensors are missing."""
        config = load_config("model", str(folder))
        known = ARCHITECTURES.get(config.model_type)
        if known is None or not known.prefixes:
            raise UserError("model", str(folder), f"its family {config.model_type} cannot stand alone")
        decoder, report = load_weights(
            AutoModelForCausalLM, "model", str(folder), config, **{"dtype": "auto", **kwargs}
        )
        missing = sorted(report["missing_keys"])
        if missing:
            raise UserError("model", str(folder), f"it lacks {len(missing)} tensors, such as {missing[0]}")
        unknown = {"composition": vars(Composition(encoder=None, decoder=str(folder))).copy(), "fresh_parameters": []}
        model = prefix_decoder(decoder, {name: getattr(config, name, unknown[name]) for name in KEPT})
        saved = decoder.generation_config
        for config in (model.config, model.generation_config):
            config.decoder_start_token_id = saved.bos_token_id
            config.eos_token_id, config.pad_token_id = saved.eos_token_id, saved.pad_token_id
        model.generation_config.bos_token_id = saved.bos_token_id
        model.eval()
        return model

    @property
    def composition(self) -> Composition:
        """How this model was built."""
        return Composition(**self.config.composition)


class _Embed(nn.Module):
    """A source's embeddings, as an encoder would give its states; the embeddings stay the decoder's own parameters."""

    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        self._owner = (embeddings,)  # in a tuple, so that it is not registered a second time

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self._owner[0](input_ids))


def prefix_decoder(decoder: PreTrainedModel, kept: dict[str, Any]) -> PrefixDecoder:
    """A decoder of its own as a `PrefixDecoder`; `kept` is what its config remembers of the composition."""
    config = PrefixDecoderConfig(decoder=decoder.config.to_dict())  # not itself: it would lose its attention function
    for name, value in kept.items():
        setattr(config, name, value)
    return PrefixDecoder(config, decoder)
