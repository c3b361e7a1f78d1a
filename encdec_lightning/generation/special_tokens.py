"""The tokens that a model's own generation config gives a meaning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from encdec_lightning.errors import UserError
from encdec_lightning.generation.candidates import Candidates

UNKNOWN = {
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "guidance_scale"), 1),
    **dict.fromkeys(("typical_p", "epsilon_cutoff", "eta_cutoff", "min_p", "top_h", "diversity_penalty"), 0),
    **dict.fromkeys(("encoder_no_repeat_ngram_size", "prompt_lookup_num_tokens", "num_beam_groups"), 0),
    **dict.fromkeys(("sequence_bias", "exponential_decay_length_penalty", "begin_suppress_tokens", "max_time"), None),
    **dict.fromkeys(("stop_strings", "watermarking_config", "constraints", "force_words_ids", "assistant_model"), None),
    **dict.fromkeys(("renormalize_logits", "remove_invalid_values"), False),
}
"""Settings of `transformers.GenerationConfig` that only its own `generate` obeys, and what changes nothing."""


@dataclass(frozen=True)
class Tokens:
    """Which tokens start, end, are written first or last whatever the model thinks, or are never written."""

    start: int
    end: tuple[int, ...]
    forced_first: int | None = None
    forced_last: int | None = None
    never: tuple[int, ...] = ()

    @classmethod
    def of(cls, model: PreTrainedModel) -> Tokens:
        """Those of the model. Raises `UserError` if it has no start token."""
        config = model.generation_config
        if config.decoder_start_token_id is None:
            raise UserError("decoder_start_token_id", None, "the model needs one, see Tokenizers.configure")
        end = config.eos_token_id
        never = [*(config.suppress_tokens or ()), *(word[0] for word in config.bad_words_ids or () if len(word) == 1)]
        ends = () if end is None else (end,) if isinstance(end, int) else tuple(end)
        return cls(
            start=int(config.decoder_start_token_id),
            end=ends,
            forced_first=config.forced_bos_token_id,
            forced_last=config.forced_eos_token_id,
            # transformers leaves out a bad word that ends a text
            never=tuple(token for token in never if token not in ends or token in (config.suppress_tokens or ())),
        )

    def force(self, best: Candidates, lengths: Tensor, max_length: int) -> Candidates:
        """The candidates after targets of these lengths (R,), where the first or the last token is settled."""
        for token, there in ((self.forced_first, lengths == 0), (self.forced_last, lengths == max_length - 1)):
            if token is None:
                continue
            logits, tokens = best.logits.masked_fill(there[:, None], -torch.inf), best.tokens.clone()
            certain = logits.new_zeros(len(logits)) if best.normalizer is None else best.normalizer
            logits[:, 0] = torch.where(there, certain, logits[:, 0])
            tokens[:, 0] = torch.where(there, token, tokens[:, 0])
            best = Candidates(logits, tokens, best.normalizer)
        return best


def unknown_setting(model: PreTrainedModel) -> str | None:
    """The name of a setting in the model's generation config that is not obeyed here."""
    config = model.generation_config
    for name, neutral in UNKNOWN.items():
        value = getattr(config, name, None)
        if value is not None and value != neutral and not (name == "num_beam_groups" and value == 1):
            return name
    if any(len(word) > 1 for word in config.bad_words_ids or ()):
        return "bad_words_ids"
    if isinstance(config.forced_eos_token_id, list):
        return "a list of forced_eos_token_id"
    return None
