"""A language model with cross-attention: the class of its family, with the source as two more arguments.

Its parameters have the names that they have in the language model, and cross-attention's have `cross_attention` in
theirs, so that a plain checkpoint of the family opens as one that lacks cross-attention. Without a source it computes
what the language model does.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    EncoderDecoderCache,
    PreTrainedModel,
    conversion_mapping,
    initialization,
)
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import can_return_tuple

from encdec_lightning.composition.adapter.cross_attention import CrossAttention
from encdec_lightning.composition.adapter.layers import add_after, add_between, add_merged
from encdec_lightning.composition.adapter.merged import Merged
from encdec_lightning.composition.adapter.source import Source, current
from encdec_lightning.composition.architectures import depth, layout_of
from encdec_lightning.composition.cross_attending import CrossAttendingConfig


class CrossAttendingLM(PreTrainedModel):  # type: ignore[misc]
    """What the classes of all families add to the language model of theirs."""

    def __init__(self, config: CrossAttendingConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        layout, layers = layout_of(config), decoder_layers(self)
        for number in range(config.cross_attention_every - 1, len(layers), config.cross_attention_every):
            layer = layers[number]
            if config.cross_attention_kind == "merged":
                add_merged(layer, Merged(config, layout, number))
                continue
            cross_attention = CrossAttention(layer, layout, config, number)
            if config.cross_attention_place == "between":
                assert layout.between is not None
                add_between(layer, layout.between, cross_attention)
            else:
                add_after(layer, cross_attention)
        self.post_init()

    def initialize_weights(self) -> None:
        """Gates are closed; all else that no checkpoint has is drawn as in the family."""
        super().initialize_weights()
        for module in self.modules():
            if isinstance(module, CrossAttention) and module.gate is not None:
                initialization.zeros_(module.gate)  # which leaves alone what came from a checkpoint

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithCrossAttentions:
        """As the language model's, for ids (B, T), beside a source (B, S, E) whose mask (B, S) is 1 at real tokens."""
        if self.training and any(getattr(each, "gradient_checkpointing", False) for each in decoder_layers(self)):
            past_key_values, use_cache = None, False
        if use_cache is None:
            use_cache = bool(self.config.use_cache) and not self.training
        cache = past_key_values
        if cache is None and use_cache and encoder_hidden_states is not None:
            cache = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache())
        own, pair = cache, None
        if isinstance(cache, EncoderDecoderCache):
            own, pair = cache.self_attention_cache, cache
            if not pair.get_seq_length() and any(each.is_sliding for each in pair.cross_attention_cache.layers):
                pair.cross_attention_cache = DynamicCache()  # a window is self-attention's; the source is read whole
        source = None
        if encoder_hidden_states is not None:
            source = Source(encoder_hidden_states, encoder_attention_mask, pair, self.config)
        token = current.set(source)
        try:
            output = super().forward(
                input_ids=input_ids, attention_mask=attention_mask, past_key_values=own, inputs_embeds=inputs_embeds,
                use_cache=use_cache, **{**kwargs, "return_dict": True},
            )  # fmt: skip
        finally:
            current.reset(token)
        return CausalLMOutputWithCrossAttentions(
            loss=output.get("loss"),
            logits=output.logits,
            past_key_values=output.past_key_values if pair is None else pair,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The layers of a language model."""
    count = depth(model.config)
    return next(each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == count)


def register_model(config: type[CrossAttendingConfig]) -> None:
    """Make the class of models of a class of configs, and tell `AutoModelForCausalLM` of it."""
    language_model = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[config.language_model]]
    name = f"CrossAttending{language_model.__name__}"
    values = {"__module__": __name__, "__qualname__": name, "config_class": config}
    made = type(name, (CrossAttendingLM, language_model), values)
    globals()[name] = made
    stored = conversion_mapping.get_checkpoint_conversion_mapping
    renamed = stored(language_model.__name__) or stored(config.language_model)
    if renamed is not None:  # names that checkpoints of the family have and its classes have not
        conversion_mapping.register_checkpoint_conversion_mapping(name, renamed, overwrite=True)
    AutoModelForCausalLM.register(config, made, exist_ok=True)
