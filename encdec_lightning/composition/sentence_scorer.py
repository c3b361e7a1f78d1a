"""`SentenceScorer`: an encoder alone, and above it a score for each sentence (BertSumExt of Liu & Lapata, 2019)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.checkpoints import dtype_of, load_config, load_weights
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.labels import IGNORED
from encdec_lightning.composition.lora import merged
from encdec_lightning.composition.model import OF_PUSHING
from encdec_lightning.composition.options import Role
from encdec_lightning.composition.segments import with_segments
from encdec_lightning.composition.sentence_head import SentenceHead
from encdec_lightning.composition.sides.random_values import drop_pooler, in_one_dtype, random_encoder
from encdec_lightning.errors import UserError

KEPT = ("composition", "fresh_parameters", "sentence_dropout", "sentence_start_id", "sentence_end_id")
"""What an exported folder's config holds beside the encoder's own values."""
HEAD_FILE = "sentence_head.safetensors"
"""Holds what scores the sentences; `model.safetensors` is the encoder's alone."""
DROPOUT = 0.1
"""Of the layers between sentences, where no `dropout` is given."""


class SentenceScorerConfig(PretrainedConfig):  # type: ignore[misc]
    """The encoder's config, one level down, as that of an encoder-decoder has it."""

    model_type = "sentence-scorer"
    sub_configs: ClassVar[dict[str, Any]] = {"encoder": AutoConfig}
    encoder: PretrainedConfig | dict[str, Any] | None = None
    sentence_dropout: float = DROPOUT
    sentence_start_id: int | None = None
    sentence_end_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.encoder, dict):
            values = dict(self.encoder)
            self.encoder = AutoConfig.for_model(values.pop("model_type"), **values)
        super().__post_init__(**kwargs)


@dataclass
class SentenceScores(ModelOutput):  # type: ignore[misc]
    """What `SentenceScorer` gives for B documents of at most N sentences."""

    loss: Tensor | None = None
    """(): the mean cross-entropy of the sentences, in nats."""
    logits: Tensor | None = None
    """(B, N): the sigmoid of one is the probability that the sentence is in the extract."""
    mask: Tensor | None = None
    """(B, N) bool: where a document has a sentence."""


class SentenceScorer(ComposedModel):
    """An encoder whose states at the start of each sentence, or their means, are scored; see `SentenceHead`.

    A source is `[CLS] first sentence [SEP] [CLS] second sentence [SEP]`, which `Tokenizers` with `sentences` makes.
    """

    roles: ClassVar[tuple[Role, ...]] = ("encoder",)
    config_class = SentenceScorerConfig
    base_model_prefix = "sentence_scorer"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the HF Trainer then divides the loss by the micro-batches itself
    _supports_sdpa = True
    _supports_flash_attn = True
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^encoder\.pooler\."]

    def __init__(self, config: SentenceScorerConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.encoder = random_encoder(config.encoder, torch.get_default_dtype()) if encoder is None else encoder
        self.config.encoder = self.encoder.config  # the one that knows which attention it runs
        drop_pooler(self.encoder)
        layers = self.composition.sentence_layers
        self.sentence_head = SentenceHead(self.encoder.config.hidden_size, layers, config.sentence_dropout)
        self.sentence_head.to(self.encoder.dtype)
        self.shared = {}
        self.generation_config = GenerationConfig()  # it writes nothing; everybody else keeps one
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's."""
        embeddings: nn.Module = self.encoder.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> None:
        """None: no text is written."""

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the encoder has its values, and the head has drawn its own."""

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        sentences: int | None = None,
        **kwargs: Any,
    ) -> SentenceScores:
        """Scores of the sentences of sources `input_ids` (B, S), whose real tokens `attention_mask` (B, S) tells.

        `labels` (B, N) are 1 for a sentence of the extract, 0 for another and -100 where there is none. `sentences` is
        N, the most of a document, for callers that know it: finding out waits for a GPU. Other arguments go to the
        encoder.
        """
        if input_ids is None:
            raise ValueError("sentences are found in input_ids: give these")
        if self.config.sentence_start_id is None and not input_ids.is_meta:
            raise ValueError("the model does not know which token begins a sentence: call tokenizers.configure(model)")
        given = with_segments(self.config, input_ids, kwargs)
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **{**given, "return_dict": True})
        starts = input_ids == (-1 if self.config.sentence_start_id is None else self.config.sentence_start_id)
        if attention_mask is not None:
            starts = starts & attention_mask.bool()
        if sentences is None:
            sentences = max(1, int(starts.sum(dim=1).max())) if labels is None else labels.shape[1]
        places = starts.int().argsort(dim=1, descending=True, stable=True)[:, :sentences]  # the starts come first
        mask = starts.gather(1, places)
        states = output.last_hidden_state
        if self.composition.sentence_pooling == "mean":
            chosen = sentence_means(states, starts, attention_mask, sentences)
        else:
            chosen = states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))
        logits = self.sentence_head(chosen, mask)
        return SentenceScores(loss=None if labels is None else _mean_loss(logits, labels), logits=logits, mask=mask)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write the plain encoder, which `AutoModel` opens, and the head into a file beside it.

        The folder is an ordinary checkpoint, which `model.encoder` may name: BertSumExtAbs goes on from it. What LoRA
        has learnt is written as a part of the weights.
        """
        plain = merged(self)
        if plain is not self:
            plain.save_pretrained(save_directory, **{**kwargs, "state_dict": None})
            return
        pushed = kwargs.pop("push_to_hub", False)
        hub = {name: kwargs.pop(name) for name in ("repo_id", *OF_PUSHING) if pushed and name in kwargs}
        state = kwargs.pop("state_dict", None) or self.state_dict()
        for name in KEPT:
            setattr(self.encoder.config, name, getattr(self.config, name))
        own = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
        self.encoder.save_pretrained(save_directory, state_dict=own, **kwargs)
        head = {name: value.contiguous() for name, value in state.items() if name.startswith("sentence_head.")}
        save_file(head, Path(save_directory) / HEAD_FILE)
        if pushed:  # the encoder would, before the head is there
            self.push_to_hub(**{"repo_id": Path(save_directory).name, **hub})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Open a folder of `save_pretrained`. Raises `UserError` for another one."""
        given = kwargs.pop("config", None)
        with_report = kwargs.pop("output_loading_info", False)
        config = load_config("model", str(folder)) if given is None else given
        head = Path(folder) / HEAD_FILE
        if not head.is_file() or not all(hasattr(config, name) for name in KEPT):
            raise UserError("model", str(folder), f"it has no {HEAD_FILE}, or a config.json of another program")
        encoder, report = load_weights(
            architecture_of(config).encoder_class,
            "model",
            str(folder),
            config,
            **dtype_of(kwargs),
            **dict(architecture_of(config).encoder_arguments),
        )
        drop_pooler(encoder)
        in_one_dtype(encoder)
        missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise UserError("model", str(folder), f"it lacks {len(missing)} tensors, such as {missing[0]}")
        model = sentence_scorer(encoder, {name: getattr(config, name) for name in KEPT})
        try:
            model.sentence_head.load_state_dict(
                {name.removeprefix("sentence_head."): value for name, value in load_file(head).items()}
            )
        except RuntimeError as error:
            raise UserError("model", str(folder), f"its {HEAD_FILE} is that of another model") from error
        model.eval()
        return (model, report) if with_report else model


def sentence_scorer(encoder: PreTrainedModel, kept: dict[str, Any]) -> SentenceScorer:
    """An encoder of its own as a `SentenceScorer`; `kept` is what its config remembers of the composition."""
    values = {name: value for name, value in encoder.config.to_dict().items() if name not in KEPT}
    config = SentenceScorerConfig(encoder=values)  # not itself: it would lose its attention function
    config.dtype = encoder.dtype
    for name, value in kept.items():
        setattr(config, name, value)
    return SentenceScorer(config, encoder)


def sentence_means(states: Tensor, starts: Tensor, mask: Tensor | None, sentences: int) -> Tensor:
    """The mean state (B, N, H) of each sentence's tokens, from states (B, S, H); 0 where there is no sentence.

    `starts` (B, S) is true where one begins, and `mask` (B, S) 1 at real tokens.
    """
    numbers = starts.long().cumsum(dim=1) - 1  # of a token's sentence
    inside = (numbers >= 0) & (numbers < sentences)
    if mask is not None:
        inside = inside & mask.bool()
    belongs = functional.one_hot(numbers.clamp(0, sentences - 1), sentences) * inside[..., None]
    belongs = belongs.to(states.dtype)
    return belongs.mT @ states / belongs.sum(dim=1).clamp(min=1)[..., None]


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy by labels (B, N) that are 0, 1 or -100, (), in fp32 or better; 0 without any label."""
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    known = labels != IGNORED
    losses = functional.binary_cross_entropy_with_logits(precise, labels.clamp(min=0).to(precise), reduction="none")
    return torch.where(known, losses, 0).sum() / known.sum().clamp(min=1)
