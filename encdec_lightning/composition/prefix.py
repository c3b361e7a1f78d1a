"""`PrefixDecoder`: a decoder alone that reads the source as a prefix (GPT of Rothe et al., section 3)."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    Cache,
    EncoderDecoderCache,
    GenerationConfig,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from encdec_lightning.composition.architectures import attention_window, known_architecture
from encdec_lightning.composition.causality import hide_later_tokens
from encdec_lightning.composition.checkpoints import dtype_of, load_config, load_weights
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.labels import labels_loss
from encdec_lightning.composition.lora import merged
from encdec_lightning.composition.options import Composition, Role
from encdec_lightning.composition.sides.random_values import random_decoder
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


class PrefixDecoder(ComposedModel, GenerationMixin):  # type: ignore[misc]
    """The source, then the target, through one causal language model; forward and `generate` are an encoder-decoder's.

    A row is `source tokens, start, target tokens`. Padding between source and start is masked, and positions count real
    tokens only, so that a batch gives what its rows give alone. A window of attention counts padding too, so that such
    a decoder reads each source's padding before it. Constraints of generation see the target alone.
    """

    roles: ClassVar[tuple[Role, ...]] = ("decoder",)
    config_class = PrefixDecoderConfig
    base_model_prefix = "prefix_decoder"
    main_input_name = "input_ids"
    accepts_loss_kwargs = True  # the HF Trainer then gives `num_items_in_batch`
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: PrefixDecoderConfig, decoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.decoder = random_decoder(config.decoder, torch.get_default_dtype()) if decoder is None else decoder
        self.config.decoder = self.decoder.config  # the one that knows which attention it runs
        self.shared = {}
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

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Logits (B, T, V) of the T target tokens after each of `decoder_input_ids` (B, T).

        The source is `input_ids` (B, S), or its embeddings as `encoder_outputs`; `attention_mask` (B, S) is 1 at real
        tokens, and `decoder_attention_mask` at the target's, those in the cache included. With a cache that is not
        empty the source is in it, and the target's new tokens alone are read. `labels` (B, T) and `num_items_in_batch`
        are those of `EncoderDecoder`. Other arguments go to the decoder, whose states, if asked for, are the source's
        and the target's.
        """
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        source = self._embedded(input_ids, inputs_embeds) if encoder_outputs is None else encoder_outputs[0]
        target = self._embedded(decoder_input_ids, decoder_inputs_embeds)
        if attention_mask is None:
            attention_mask = source.new_ones(source.shape[:2], dtype=torch.long)
        if attention_window(self.config.decoder) is not None:
            source, attention_mask = _right_aligned(source, attention_mask)
        cache = past_key_values
        if isinstance(past_key_values, EncoderDecoderCache):
            cache = past_key_values.self_attention_cache
        seen = 0 if cache is None else int(cache.get_seq_length())
        embeddings = target if seen else torch.cat([source, target], dim=1)
        written = seen + embeddings.shape[1] - source.shape[1]
        if decoder_attention_mask is None:
            mask = nn.functional.pad(attention_mask, (0, written), value=1)
        else:
            mask = torch.cat([attention_mask, decoder_attention_mask.to(attention_mask)], dim=1)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, seen:]
        output = self.decoder(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=use_cache,
            logits_to_keep=target.shape[1],
            **{**kwargs, "return_dict": True},
        )
        return Seq2SeqLMOutput(
            loss=None if labels is None else labels_loss(output.logits, labels, num_items_in_batch),
            logits=output.logits,
            past_key_values=past_key_values or output.past_key_values,
            decoder_hidden_states=output.hidden_states,
            decoder_attentions=output.attentions,
        )

    def _embedded(self, ids: Tensor | None, embeddings: Tensor | None) -> Tensor:
        """The embeddings (B, T, H) of tokens, or those that were given."""
        if (ids is None) == (embeddings is None):
            raise ValueError("source and target need ids, or embeddings, and not both")
        found: Tensor = self.decoder.get_input_embeddings()(ids) if embeddings is None else embeddings
        return found

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
        """Write the plain language model, which `AutoModelForCausalLM` opens, and how it generates.

        A language model's lengths count what it reads, so the start token and the source are taken off them. What LoRA
        has learnt is written as a part of the weights.
        """
        plain = merged(self)
        if plain is not self:
            plain.save_pretrained(save_directory, **{**kwargs, "state_dict": None})
            return
        for name in KEPT:
            setattr(self.decoder.config, name, getattr(self.config, name))
        settings = plain_settings(self.generation_config)
        settings.pop("decoder_start_token_id", None)
        for name in ("max", "min"):
            if f"{name}_length" in settings:
                settings.setdefault(f"{name}_new_tokens", settings.pop(f"{name}_length") - 1)
        self.decoder.generation_config = GenerationConfig(**settings)
        state = kwargs.pop("state_dict", None)
        if state is not None:
            kwargs["state_dict"] = {name.removeprefix("decoder."): tensor for name, tensor in state.items()}
        self.decoder.save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Open a folder of `save_pretrained`, or of any language model. Raises `UserError` if tensors are missing."""
        given = kwargs.pop("config", None)
        config = load_config("model", str(folder)) if given is None else given
        known = known_architecture(config)
        if known is None or not known.prefixes:
            raise UserError("model", str(folder), f"its family {config.model_type} cannot stand alone")
        hide_later_tokens(config)
        with_report = kwargs.pop("output_loading_info", False)
        decoder, report = load_weights(known.decoder_class, "model", str(folder), config, **dtype_of(kwargs))
        missing = sorted(report["missing_keys"])
        if missing:
            raise UserError("model", str(folder), f"it lacks {len(missing)} tensors, such as {missing[0]}")
        unknown = {"composition": vars(Composition(encoder=None, decoder=str(folder))).copy(), "fresh_parameters": []}
        model = prefix_decoder(decoder, {name: getattr(config, name, unknown[name]) for name in KEPT})
        saved = decoder.generation_config
        if hasattr(config, "composition"):  # ours; another's settings are for its own prompts
            model.generation_config = GenerationConfig(**plain_settings(saved))
        for each in (model.config, model.generation_config):
            each.decoder_start_token_id = saved.bos_token_id
            each.eos_token_id, each.pad_token_id = saved.eos_token_id, saved.pad_token_id
        model.generation_config.bos_token_id = saved.bos_token_id
        model.eval()
        return (model, report) if with_report else model


def _right_aligned(source: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings (B, S, H) and their mask (B, S), with the padding after each row's last token moved before its first.

    Padding that is before a row's first token already stays there.
    """
    padding = (mask.flip(1).cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
    columns = torch.arange(mask.shape[1], device=mask.device)
    order = (columns - padding) % max(1, len(columns))
    return source.gather(1, order[..., None].expand_as(source)), mask.gather(1, order)


class _Embed(nn.Module):
    """A source's embeddings, as an encoder would give its states; the embeddings stay the decoder's own parameters."""

    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        self._owner = (embeddings,)  # in a tuple, so that it is not registered a second time

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self._owner[0](input_ids))


def plain_settings(config: GenerationConfig) -> dict[str, Any]:
    """What a generation config says beside its defaults; not where it came from."""
    values: dict[str, Any] = config.to_diff_dict()
    return {name: value for name, value in values.items() if name != "transformers_version" and name[0] != "_"}


def prefix_decoder(decoder: PreTrainedModel, kept: dict[str, Any]) -> PrefixDecoder:
    """A decoder of its own as a `PrefixDecoder`; `kept` is what its config remembers of the composition."""
    config = PrefixDecoderConfig(decoder=decoder.config.to_dict())  # not itself: it would lose its attention function
    config.dtype = decoder.dtype
    for name, value in kept.items():
        setattr(config, name, value)
    return PrefixDecoder(config, decoder)
