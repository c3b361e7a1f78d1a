"""The positions of the tokens of a step, given to a decoder that would count them otherwise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from encdec_lightning.composition.architectures import architecture_of


class Positions:
    """Where a family takes positions: as an argument of its forward, or in its module `embed_positions`."""

    def __init__(self, decoder: nn.Module, config: PretrainedConfig) -> None:
        """The decoder is this package's own copy: its module keeps the hooks."""
        architecture = architecture_of(config)
        self._taken = architecture.positions_given
        self.mixes_lengths = self._taken != "module, one for all"
        """Whether targets of different lengths can be under way at the same time."""
        self._before_first = architecture.positions_before_first
        self._padding = getattr(config, "pad_token_id", None)
        self._current: Tensor | None = None  # of the step under way
        if self._taken.startswith("module"):
            (embed,) = (each for name, each in decoder.named_modules() if name.endswith("embed_positions"))
            embed.register_forward_pre_hook(self._give, with_kwargs=True)
            embed.register_forward_hook(self._shape)

    def forget(self) -> None:
        """The step under way is over."""
        self._current = None

    def arguments(self, tokens: Tensor, number: Tensor, prefix: Tensor | None) -> dict[str, Tensor]:
        """Arguments of the decoder for `tokens` (n, K), each source's being number `number` (n, 1) of its targets.

        `prefix` (n, 1) are the lengths of sources that are read as prefixes.
        """
        position = (number + (self._before_first if prefix is None else prefix)).expand(tokens.shape)
        if self._before_first and self._padding is not None:
            # Families whose padding token has a position of its own, before the first.
            position = torch.where(tokens.eq(self._padding), self._before_first - 1, position)
        if self._taken == "argument":
            return {"position_ids": position.contiguous()}
        self._current = position if self._taken == "module" else position[0]
        return {}

    def _give(self, module: nn.Module, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """The positions of this step as an argument, in place of those that the decoder counted."""
        return None if self._current is None else (args, {**given, "position_ids": self._current})

    def _shape(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Their embeddings in their shape; some families expect the positions of one row and add a dimension."""
        return output if self._current is None else output.view(*self._current.shape, -1)
