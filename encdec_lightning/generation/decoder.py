"""The model as a search sees it: sources in, then one token of each beam at a time, and the logits of the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from encdec_lightning.composition.architectures import architecture_of, depth, position_ids
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.generation.cache import SharedCache
from encdec_lightning.generation.candidates import Head, pieces_of
from encdec_lightning.kernels.attention import all_use_attention, use_attention
from encdec_lightning.kernels.packed_linear import pack_linears
from encdec_lightning.kernels.packing import Packing, packed
from encdec_lightning.kernels.spans import Reading, Span, reading, spans
from encdec_lightning.kernels.working_copy import copy_in

Pieces = Sequence[Callable[[], Tensor]]
"""What computes the logits of R rows, in pieces (R, C) of the vocabulary."""


class Decoder:
    """A copy of a composed model, its weights cast at most once, with the cache of the sources under way.

    There is room for N sources, the first n of them active. A source's K beams are K tokens of one row, at the same
    position, that see different columns of the cache. Every family runs so that can be told a token's position.
    """

    def __init__(
        self, model: ComposedModel, sources: int, beams: int, max_length: int, start: int,
        dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        self.model = copy_in(dtype, model).eval()
        use_attention(self.model)
        pack_linears(self.model, leave=self.model.get_output_embeddings())
        self.device, self.beams = self.model.device, beams
        config = self.model.config.decoder
        architecture = architecture_of(config)
        self._given = architecture.positions_given
        self.mixes_lengths = self._given != "module, one for all"
        """Whether targets of different lengths can be under way at the same time."""
        if self._given.startswith("module"):
            (embed,) = (each for name, each in self.model.decoder.named_modules() if name.endswith("embed_positions"))
            embed.register_forward_pre_hook(self._give_positions, with_kwargs=True)
            embed.register_forward_hook(self._shape_positions)
        self._reads_prefix = model.reads_prefix
        self.packs = model.packs and self.device.type == "cpu" and all_use_attention(self.model)
        """Whether sources are read side by side, without padding."""
        self._first_position = architecture.positions_before_first
        self._start = start
        self._padding = getattr(config, "pad_token_id", None)
        self._source_pad = model.source_pad_id
        self._hidden_from_all = torch.finfo(self.model.dtype).min
        self._head: Head | None = None
        self._shape = depth(config), sources, beams, max_length
        self.reset()
        head = self.model.get_output_embeddings()
        if type(head) is nn.Linear:
            head.register_forward_pre_hook(self._catch)

    def reset(self) -> None:
        """Forget all sources, and what a step has left that did not come to its end."""
        _, sources, beams, _ = self._shape
        self.cache = SharedCache(*self._shape)
        self._positions: Tensor | None = None  # of the step under way
        self._given_to_head: list[Tensor] = []  # in the forward pass under way
        self._widths = [0] * sources  # of the source of each row
        self._reading: Reading | None = None  # of these spans
        self._spans: tuple[Span, ...] = ()
        self._lengths = torch.zeros(sources, dtype=torch.long, device=self.device)
        # What is added to scores: (N, S) of sources, on the left beside an encoder, on the right of prefixes;
        # (N, K, 1 + (T - 1) K) of targets, 0 where a column is a beam's past
        self._source_bias = torch.zeros(sources, 0, dtype=self.model.dtype, device=self.device)
        self._target_bias = torch.zeros(sources, beams, self.cache.slots, dtype=self.model.dtype, device=self.device)

    def admit(self, rows: Sequence[int], sources: Sequence[Tensor]) -> Pieces:
        """Read M sources (S,) of similar lengths into these rows, and the start token; the logits after it."""
        self._reading = None
        at = torch.tensor(rows, device=self.device)
        lengths = torch.tensor([len(each) for each in sources], device=self.device)
        width = max(len(each) for each in sources)
        ids = nn.utils.rnn.pad_sequence(list(sources), batch_first=True, padding_value=self._source_pad).to(self.device)
        mask = torch.arange(width, device=self.device) < lengths[:, None]
        start = torch.full((len(ids), 1), self._start, device=self.device)
        missing = max(0, width - self._source_bias.shape[1])
        added = (missing, 0) if self._reads_prefix else (0, missing)
        self._source_bias = functional.pad(self._source_bias, added, value=self._hidden_from_all)
        columns = slice(self._source_bias.shape[1] - width, None) if self._reads_prefix else slice(0, width)
        self._source_bias[at] = self._hidden_from_all
        self._source_bias[at, columns] = self._hidden_from_all * (~mask).to(self._source_bias.dtype)
        self._target_bias[at] = self._hidden_from_all
        self._target_bias[at, :, 0] = 0
        self._lengths[at] = lengths
        for row, source in zip(rows, sources, strict=True):  # a prefix is padded before its start token
            self._widths[row] = width if self._reads_prefix else len(source)
        packing = Packing(tuple(map(len, sources)), (1,) * len(sources)) if self.packs else None
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
        return self._pieces(output.logits, len(ids))

    def step(self, tokens: Tensor, numbers: Sequence[int]) -> Pieces:
        """The logits of n * K rows after `tokens` (n, K), each source's being number `numbers` (n,) of its targets."""
        active, steps, same = len(tokens), max(numbers), min(numbers) == max(numbers)
        width = max(self._widths[:active])
        number = torch.tensor([steps] if same else list(numbers), device=self.device)[:, None]
        first = 1 + self.beams * (number - 1)
        self.cache.advance(active, width, steps, 1 + self.beams * (steps - 1) if same else first)
        own = (first + torch.arange(self.beams, device=self.device)).expand(active, -1)
        self._target_bias[:active].scatter_(2, own[..., None], 0)
        bias = self._target_bias[:active, :, : 1 + self.beams * steps]
        given: dict[str, Any] = {"use_cache": True}
        position = number + (self._lengths[:active, None] if self._reads_prefix else self._first_position)
        position = position.expand(active, self.beams)
        if (
            self._first_position and self._padding is not None
        ):  # families whose padding token has a position of its own, before the first
            position = torch.where(tokens.eq(self._padding), self._first_position - 1, position)
        if self._given == "argument":
            given["position_ids"] = position.contiguous()
        else:
            self._positions = position if self._given == "module" else position[0]
        if self._reads_prefix:
            source = self._source_bias[:active, None, self._source_bias.shape[1] - width :]
            bias = torch.cat([source.expand(-1, self.beams, -1), bias], dim=2)
            given["past_key_values"] = self.cache.self_attention_cache
        else:
            given["past_key_values"] = self.cache
            given["encoder_attention_mask"] = self._source_bias[:active, None, None, :width].expand(
                -1, 1, self.beams, -1
            )
            given["encoder_hidden_states"] = bias.new_zeros(active, 1, 1)  # asked for, and not read
        found = () if self._reads_prefix else spans(self._widths[:active])
        if self._reading is None or found != self._spans:
            self._reading, self._spans = Reading(self.cache.source_keys, found), found
        with reading(self._reading):
            output = self.model.decoder(tokens, attention_mask=bias[:, None], **given)
        self._positions = None
        return self._pieces(output.logits, active * self.beams)

    def reorder(self, parents: Tensor) -> None:
        """Beam k of each of the first n sources goes on from what was beam `parents[:, k]`, (n, K)."""
        bias = self._target_bias[: len(parents)]
        bias.copy_(bias.gather(1, parents[..., None].expand_as(bias)))

    def move(self, into: Sequence[int], out_of: Sequence[int]) -> None:
        """The sources of some rows go into others, whose own are done."""
        self._reading = None
        to, of = torch.tensor(into, device=self.device), torch.tensor(out_of, device=self.device)
        for tensor in (self._lengths, self._source_bias, self._target_bias):
            tensor[to] = tensor[of]
        for row, other in zip(into, out_of, strict=True):
            self._widths[row] = self._widths[other]
        self.cache.move(to, of)

    def _catch(self, head: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Keep what the LM head is given; once its product is known to be the logits, give it nothing."""
        self._given_to_head.append(given[0])
        return given if self._head is None else (given[0][:, :0],)

    def _give_positions(self, module: nn.Module, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """The positions of this step as an argument, in place of those that the decoder counted."""
        return None if self._positions is None else (args, {**given, "position_ids": self._positions})

    def _shape_positions(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Their embeddings in their shape; some families expect the positions of one row and add a dimension."""
        return output if self._positions is None else output.view(*self._positions.shape, -1)

    def _pieces(self, logits: Tensor, rows: int) -> Pieces:
        if self._given_to_head:
            hidden = self._given_to_head.pop().reshape(rows, -1)
            if self._head is not None:
                return self._head.pieces(hidden)
            head = self.model.get_output_embeddings()
            expected = functional.linear(hidden, head.weight, head.bias)
            if torch.equal(logits.reshape(rows, -1), expected):  # nothing scaled, capped or added after
                self._head = Head(head.weight, head.bias)
        return pieces_of(logits.reshape(rows, -1))
