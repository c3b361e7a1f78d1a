"""Continuous batching: sources that are done leave, new ones enter, and the rest goes on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from encdec_lightning.generation.beam_search import BeamSearch
from encdec_lightning.generation.decoder import Decoder
from encdec_lightning.generation.options import Generation
from encdec_lightning.generation.sampling import Sampling
from encdec_lightning.generation.search import Hypothesis, Search

Key = TypeVar("Key", bound=Hashable)

ENCODED_TOKENS = 2048
"""Source tokens, padding included, that are read at once."""


class Engine(Generic[Key]):
    def __init__(
        self, model: PreTrainedModel, generation: Generation, max_length: int, rows: int = 256,
        dtype: torch.dtype | None = None, generator: torch.Generator | None = None, scores: bool = True,
    ) -> None:  # fmt: skip
        self.beams = generation.rows
        self.room = max(1, rows // self.beams)
        self.max_length = max_length
        self.decoder = Decoder(model, self.room, self.beams, max_length, dtype)
        ends = model.generation_config.eos_token_id
        end = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        start = int(model.generation_config.decoder_start_token_id)
        device = self.decoder.device
        self.search: Search = (
            BeamSearch(generation, self.room, max_length, start, end, device)
            if generation.num_beams > 1
            else Sampling(generation, self.room, max_length, start, end, device, generator, scores)
        )
        self.keys: list[Key] = []
        self.lengths: list[int] = []
        self.tokens = torch.zeros(self.room, self.beams, dtype=torch.long, device=device)

    @torch.no_grad()
    def stream(self, sources: Iterable[tuple[Key, Tensor]]) -> Iterator[tuple[Key, list[Hypothesis]]]:
        waiting = iter(sources)
        exhausted = False
        while True:
            room = self.room - len(self.keys)
            if not exhausted and (not self.keys or (self.decoder.takes_positions and 4 * room >= self.room)):
                new = []
                for item in waiting:
                    new.append(item)
                    if len(new) == room:
                        break
                exhausted = len(new) < room
                for group in _groups(new):
                    yield from self._admit(group)
            if not self.keys:
                if exhausted:
                    return
                continue
            yield from self._step()

    def _admit(self, group: Sequence[tuple[Key, Tensor]]) -> Iterator[tuple[Key, list[Hypothesis]]]:
        first = len(self.keys)
        rows = list(range(first, first + len(group)))
        pieces = self.decoder.admit(rows, [ids for _, ids in group])
        at = torch.tensor(rows, device=self.decoder.device)
        move = self.search.begin(at, pieces)
        self.tokens[at] = move.tokens
        self.keys += [key for key, _ in group]
        self.lengths += [1] * len(group)
        yield from self._retire([first + i for i, done in enumerate(move.done.tolist()) if done])

    def _step(self) -> Iterator[tuple[Key, list[Hypothesis]]]:
        active = len(self.keys)
        pieces = self.decoder.step(self.tokens[:active], self.lengths)
        move = self.search.step(active, max(self.lengths), pieces)
        self.tokens[:active] = move.tokens
        if move.parents is not None:
            self.decoder.reorder(move.parents)
        self.lengths = [length + 1 for length in self.lengths]
        yield from self._retire([row for row, done in enumerate(move.done.tolist()) if done])

    def _retire(self, rows: list[int]) -> Iterator[tuple[Key, list[Hypothesis]]]:
        if not rows:
            return
        finished = [(self.keys[row], self.search.hypotheses(row)) for row in rows]
        kept = len(self.keys) - len(rows)
        done = set(rows)
        into = [row for row in rows if row < kept]
        out_of = [row for row in range(kept, len(self.keys)) if row not in done]
        if into:
            self.decoder.move(into, out_of)
            to, of = torch.tensor(into, device=self.decoder.device), torch.tensor(out_of, device=self.decoder.device)
            self.search.move(to, of)
            self.tokens[to] = self.tokens[of]
            for row, other in zip(into, out_of, strict=True):
                self.keys[row], self.lengths[row] = self.keys[other], self.lengths[other]
        del self.keys[kept:], self.lengths[kept:]
        yield from finished


def _groups(sources: Sequence[tuple[Key, Tensor]]) -> Iterator[list[tuple[Key, Tensor]]]:
    """Sources of similar length together."""
    group: list[tuple[Key, Tensor]] = []
    for item in sorted(sources, key=lambda item: -len(item[1])):
        if group and len(group[0][1]) * (len(group) + 1) > ENCODED_TOKENS:
            yield group
            group = []
        group.append(item)
    if group:
        yield group
