"""`EncoderDecoder`: transformers' `EncoderDecoderModel` whose two sides can share parameters again."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Cache, EncoderDecoderConfig, EncoderDecoderModel, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.pytorch_utils import Conv1D
from transformers.utils import can_return_tuple

from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.checkpoints import dtype_of, load_config, load_weights, stored_names
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.labels import labels_loss
from encdec_lightning.composition.lora import merged
from encdec_lightning.composition.options import Composition, Role, Weights
from encdec_lightning.composition.segments import with_segments
from encdec_lightning.composition.sharing import shared_keys
from encdec_lightning.composition.sides.cross_attention import is_cross_attention
from encdec_lightning.composition.sides.names import LAYER
from encdec_lightning.composition.sides.random_values import drop_pooler, random_decoder, random_encoder
from encdec_lightning.errors import UserError

STOCK_CLASS = EncoderDecoderModel.__name__
OF_PUSHING = ("commit_message", "private", "token", "create_pr")


class EncoderDecoder(ComposedModel, EncoderDecoderModel):  # type: ignore[misc]
    """A composed model. Forward and `generate` are transformers', the loss of `labels` is the training's.

    `config.composition` says how it was built; `compose` makes one of two checkpoints.

    Shared tensors are one `Parameter` object, under the names that `shared` maps. They stay one through
    `save_pretrained`, `from_pretrained`, `copy.deepcopy`, `.to()` and `load_state_dict`.
    """

    roles: ClassVar[tuple[Role, ...]] = ("encoder", "decoder")
    accepts_loss_kwargs = True  # the HF Trainer then gives `num_items_in_batch`
    all_tied_weights_keys: dict[str, str]
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^encoder\.pooler\."]

    def __init__(
        self,
        config: EncoderDecoderConfig | None = None,
        encoder: PreTrainedModel | None = None,
        decoder: PreTrainedModel | None = None,
    ) -> None:
        dtype = torch.get_default_dtype()  # which from_pretrained sets; the sides' configs may say another
        if encoder is None and config is not None:
            encoder = random_encoder(config.encoder, dtype)  # the parent would build the whole of a t5
        if decoder is None and config is not None:
            decoder = random_decoder(config.decoder, dtype)
        super().__init__(config=config, encoder=encoder, decoder=decoder)

    def post_init(self) -> None:
        """Called last by the parent's constructor, when both sides exist."""
        if not hasattr(self.config, "composition"):  # it was made of two models, or of the stock class's config
            encoder, decoder = (side.config.name_or_path or side.config.model_type for side in self.sides.values())
            _remember(self.config, encoder, decoder, "untied")
        weights = self.config.composition.get("weights", "untied")
        drop_pooler(self.encoder)
        self.shared = shared_keys(weights, self.encoder, self.decoder)
        super().post_init()
        self._keep_in_fp32_modules = {  # a t5's `wo`, by its whole name: the other side's `word_embeddings` hold it too
            f"{role}.{name}"
            for role, side in self.sides.items()
            for name, _ in side.named_parameters()
            if any(part in name for part in side._keep_in_fp32_modules or ())
        }

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
        """As the parent's, except for `labels` (B, T), which are -100 at padding.

        The decoder's inputs are made of them (`decoder_inputs`) unless they are given. No mask is derived from ids, so
        that a padding token that is also the start or the end does no harm. The loss is the mean of the labels but
        -100, or their sum divided by `num_items_in_batch`; 0 where there is no label.
        """
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if encoder_outputs is None:
            kwargs = with_segments(self.config, input_ids, kwargs)
        output = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        if labels is None:
            return output
        return Seq2SeqLMOutput(**{**output, "loss": labels_loss(output.logits, labels, num_items_in_batch)})

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As transformers', with the source's segments where the model has them."""
        if kwargs.get("encoder_outputs") is None:
            kwargs = with_segments(self.config, kwargs.get("input_ids") if inputs is None else inputs, kwargs)
        return super().generate(inputs, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Open a folder of ours or of the stock class; what its sides share becomes one Parameter again.

        A stock folder's sides share everything if its config says so (`tie_encoder_decoder`, which transformers 5
        ignores) or if it holds one copy only, as Google's ports of Rothe et al.'s checkpoints do. Raises `UserError`
        if tensors are missing, or are to be shared and differ.
        """
        given = kwargs.pop("config", None)
        with_report = kwargs.pop("output_loading_info", False)
        config = load_config("model", str(folder)) if given is None else given
        if config.model_type != EncoderDecoderConfig.model_type:
            raise UserError(
                "model", str(folder), f"its family is {config.model_type}, not encoder-decoder; compose one"
            )
        if not hasattr(config, "composition"):
            weights: Weights = "tied" if _ties_everything(config, str(folder)) else "untied"
            _remember(config, str(folder), str(folder), weights)
        model, report = load_weights(super(), "model", str(folder), config, **dtype_of(kwargs))
        computed = architecture_of(config.decoder).computed
        lacking = [name for name in sorted(report["missing_keys"]) if not any(part in name for part in computed)]
        if lacking:
            raise UserError("model", str(folder), f"it lacks {len(lacking)} tensors, such as {lacking[0]}")
        if count_ties(model) != len(model.shared):
            raise UserError("model", str(folder), "its config says that the sides share weights, but they differ")
        return (model, report) if with_report else model

    @classmethod
    def from_encoder_decoder_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Nothing: `compose` does it. Raises `UserError`."""
        names = [str(each) for each in (*args, *kwargs.values()) if isinstance(each, str | os.PathLike)]
        expected = "encdec_lightning.compose(encoder, decoder) makes a model of two checkpoints"
        raise UserError("from_encoder_decoder_pretrained", ", ".join(names), expected)

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """{target: source} over this model; the sides' own ties (LM head and embeddings) come after the shared ones."""
        if not all_submodels:
            return dict(self.shared)
        expanded = dict(self.shared)
        for role, side in self.sides.items():
            keys = side.get_expanded_tied_weights_keys(all_submodels=True)
            expanded.update({f"{role}.{target}": f"{role}.{source}" for target, source in keys.items()})
        return expanded

    def enable_input_require_grads(self) -> None:
        """Nothing: non-reentrant checkpointing needs no hook on the embeddings, and ibert's would break it."""

    def _adjust_bias(self, output_embeddings: nn.Module, input_embeddings: nn.Module) -> None:
        """Leave GPT-2's Conv1D alone: its weight is (in, out), and the parent would cut its bias to the input width."""
        if not isinstance(output_embeddings, Conv1D):
            super()._adjust_bias(output_embeddings, input_embeddings)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write a full copy that the stock `EncoderDecoderModel` loads with equal logits, all shared tensors twice.

        This class shares them again on loading; the stock class has no way to. Nor can it run a t5's encoder, for which
        it builds a whole t5. What LoRA has learnt is written as a part of the weights.
        """
        plain = merged(self)
        if plain is not self:
            plain.save_pretrained(save_directory, **{**kwargs, "state_dict": None})
            return
        pushed = kwargs.pop("push_to_hub", False)
        hub = {name: kwargs.pop(name) for name in ("repo_id", *OF_PUSHING) if pushed and name in kwargs}
        state_dict = kwargs.pop("state_dict", None)
        if state_dict is None:
            state_dict = self.state_dict()
        copies = {target: state_dict[target].detach().clone() for target in self.shared if target in state_dict}
        copies |= self._unused_by_us(state_dict)
        for side in self.sides.values():  # the parent writes the whole's alone
            side.config.dtype = side.dtype
        all_tied, self.all_tied_weights_keys = self.all_tied_weights_keys, self._ties_within_a_side()
        try:
            super().save_pretrained(save_directory, state_dict={**state_dict, **copies}, **kwargs)
        finally:
            self.all_tied_weights_keys = all_tied
        self.config.architectures = [STOCK_CLASS]
        self.config.save_pretrained(Path(save_directory))
        if pushed:  # the parent would, before the config says what class it is
            self.push_to_hub(**{"repo_id": Path(save_directory).name, **hub})

    def _unused_by_us(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Zeros for what the stock class holds beside, BERT's pooler, which no output reads: it then misses nothing."""
        with torch.device("meta"):
            stock = EncoderDecoderModel(copy.deepcopy(self.config))
        return {
            name: torch.zeros(tensor.shape)
            for name, tensor in stock.state_dict().items()
            if name not in state_dict and name.startswith("encoder.pooler.")
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's; `assign=True`, which replaces Parameters, is followed by sharing them again."""
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        if assign:
            self.tie_weights()
        return result

    def _ties_within_a_side(self) -> dict[str, str]:
        return {target: source for target, source in self.all_tied_weights_keys.items() if target not in self.shared}


def _remember(config: EncoderDecoderConfig, encoder: str, decoder: str, weights: Weights) -> None:
    """Let a config that tells no composition tell this one."""
    config.composition = vars(Composition(encoder=encoder, decoder=decoder, weights=weights)).copy()
    config.fresh_parameters = []


def _ties_everything(config: EncoderDecoderConfig, folder: str) -> bool:
    """Whether a folder of the stock class is one of a model whose sides were tied."""
    if any(getattr(each, "tie_encoder_decoder", False) for each in (config, config.encoder, config.decoder)):
        return True
    names = [name for name in stored_names(folder) if not is_cross_attention(name) and LAYER.search(name)]
    return bool(names) and len({name.partition(".")[0] for name in names}) == 1


def count_ties(model: ComposedModel) -> int:
    """How many of the shared names are in fact one `Parameter` object with their source."""
    parameters: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return sum(parameters[target] is parameters[source] for target, source in model.shared.items())
