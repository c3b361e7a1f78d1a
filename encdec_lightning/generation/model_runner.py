"""The model as a search sees it: sources in, then one token of each beam at a time, and the logits of the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from encdec_lightning.composition.architectures import attention_window, depth, position_ids
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.generation.cache import SharedCache
from encdec_lightning.generation.logits import CapturedHead, Pieces
from encdec_lightning.generation.positions import Positions
from encdec_lightning.generation.visibility import Visibility
from encdec_lightning.kernels.attention_interface import all_use_attention, use_attention
from encdec_lightning.kernels.int8_linear import use_int8
from encdec_lightning.kernels.onednn_linear import use_onednn
from encdec_lightning.kernels.packing import Packing, packed
from encdec_lightning.kernels.spans import Reading, Span, reading, spans
from encdec_lightning.kernels.working_copy import copy_in


class ModelRunner:
    """A copy of a composed model, its weights cast at most once, with the cache of the sources under way.

    There are places for N sources, the first n of them active. A source's K beams are K tokens of one row, at the same
    position, that see different columns of the cache. Every family runs so that can be told a token's position.
    """

    def __init__(
        self, model: ComposedModel, sources: int, beams: int, max_length: int, start: int,
        dtype: torch.dtype | None = None, quantize: Literal["int8"] | None = None,
    ) -> None:  # fmt: skip
        self.model = copy_in(dtype, model).eval()
        use_attention(self.model)
        head = self.model.get_output_embeddings()
        quantizer = None if quantize is None else use_int8(self.model, leave=head)
        if quantizer is None:
            use_onednn(self.model, leave=head)
        self.device, self.beams = self.model.device, beams
        config = self.model.config.decoder
        self._positions = Positions(self.model.decoder, config)
        self.mixes_lengths = self._positions.mixes_lengths
        """Whether targets of different lengths can be under way at the same time."""
        self._reads_prefix = model.reads_prefix
        self.reads_side_by_side = model.packs and self.device.type == "cpu" and all_use_attention(self.model)
        """Whether sources are read in one row, without padding."""
        windowed = model.reads_prefix and attention_window(config) is not None
        self._padding_side = "left" if windowed else "right"  # as such a `PrefixDecoder` lays sources out
        self._start = start
        self._source_pad = model.source_pad_id
        self._head = CapturedHead(self.model, quantizer)
        self._shape = depth(config), sources, beams, max_length
        self.reset()

    def reset(self) -> None:
        """Forget all sources, and what a step has left that did not come to its end."""
        _, sources, beams, _ = self._shape
        self.cache = SharedCache(*self._shape)
        self._visibility = Visibility(
            sources, beams, self.cache.slots, self._reads_prefix, self.model.dtype, self.device
        )
        self._positions.forget()
        self._head.forget()
        self._reading: Reading | None = None  # of these spans
        self._spans: tuple[Span, ...] = ()

    def admit(self, places: Sequence[int], sources: Sequence[Tensor]) -> Pieces:
        """Read M sources (S,) of similar lengths into these places, and the start token; the logits after it."""
        self._reading = None
        at = torch.tensor(places, device=self.device)
        lengths = torch.tensor([len(each) for each in sources], device=self.device)
        width = max(len(each) for each in sources)
        ids = nn.utils.rnn.pad_sequence(
            list(sources), batch_first=True, padding_value=self._source_pad, padding_side=self._padding_side
        ).to(self.device)
        columns = torch.arange(width, device=self.device)
        mask = (columns.flip(0) if self._padding_side == "left" else columns) < lengths[:, None]
        start = torch.full((len(ids), 1), self._start, device=self.device)
        self._visibility.admit(places, [len(each) for each in sources], mask)
        packing = Packing(tuple(map(len, sources)), (1,) * len(sources)) if self.reads_side_by_side else None
        given: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask.long(), "decoder_input_ids": start}
        if packing is not None and packing.is_clear:
            given = {
                "input_ids": ids[mask][None],
                "position_ids": position_ids(self.model.config.encoder, ids)[mask][None],
                "decoder_input_ids": start.t(),
                "decoder_position_ids": position_ids(self.model.config.decoder, start).t(),
            }
        else:
            packing = None
        self.cache.admit(at, width if self._reads_prefix else 0, None if packing is None else lengths)
        with packed(packing):
            output = self.model(**given, past_key_values=self.cache, use_cache=True)
        return self._head.pieces(output.logits, len(ids))

    def step(self, tokens: Tensor, numbers: Sequence[int], on_device: Tensor | None = None) -> Pieces:
        """The logits of n * K targets after `tokens` (n, K), number `numbers` (n,) of each source's targets.

        Who has these numbers on the device too gives them, so that they need not be copied there.
        """
        active, steps, same = len(tokens), max(numbers), min(numbers) == max(numbers)
        widths = self._visibility.widths[:active]
        if same:
            number = torch.full((1, 1), steps, device=self.device)
        else:
            number = (torch.tensor(numbers, device=self.device) if on_device is None else on_device)[:, None]
        first = 1 + self.beams * (number - 1)
        self.cache.advance(active, max(widths), steps, 1 + self.beams * (steps - 1) if same else first)
        written = (first + torch.arange(self.beams, device=self.device)).expand(active, -1)
        bias = self._visibility.of_target(written, 1 + self.beams * steps)
        source = self._visibility.of_source(active)[:, None]
        prefix = self._visibility.lengths(active) if self._reads_prefix else None
        given: dict[str, Any] = {"use_cache": True, **self._positions.arguments(tokens, number, prefix)}
        if self._reads_prefix:
            bias = torch.cat([source.expand(-1, self.beams, -1), bias], dim=2)
            given["past_key_values"] = self.cache.self_attention_cache
        else:
            given["past_key_values"] = self.cache
            given["encoder_attention_mask"] = source[:, None].expand(-1, 1, self.beams, -1)
            given["encoder_hidden_states"] = bias.new_zeros(active, 1, 1)  # asked for, and not read
        found = () if self._reads_prefix else spans(widths)
        if self._reading is None or found != self._spans:
            self._reading, self._spans = Reading(self.cache.source_keys, found), found
        with reading(self._reading):
            output = self.model.decoder(tokens, attention_mask=bias[:, None], **given)
        self._positions.forget()
        return self._head.pieces(output.logits, active * self.beams)

    def reorder(self, parents: Tensor) -> None:
        """Beam k of each of the first n sources goes on from what was beam `parents[:, k]`, (n, K)."""
        self._visibility.reorder(parents)

    def move(self, into: Sequence[int], out_of: Sequence[int]) -> None:
        """The sources of some places go into others, whose own are done."""
        self._reading = None
        self._visibility.move(into, out_of)
        self.cache.move(*(torch.tensor(each, device=self.device) for each in (into, out_of)))
