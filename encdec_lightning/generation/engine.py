"""Continuous batching: sources that are done leave, new ones enter, and the rest goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from threading import RLock, current_thread
from typing import Generic, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from encdec_lightning.errors import UserError
from encdec_lightning.generation.beam_search import BeamSearch
from encdec_lightning.generation.model_runner import ModelRunner
from encdec_lightning.generation.options import Generation
from encdec_lightning.generation.sampling import Sampling
from encdec_lightning.generation.search import Hypothesis, Places, Search
from encdec_lightning.generation.special_tokens import Tokens

Key = TypeVar("Key")

READ_AT_ONCE = 2048
"""Source tokens, padding included where there is any, in one pass of the encoder."""
REFILL = 4
"""New sources enter when a part of 1 / REFILL of the places is free, so that they are read together."""


class Engine(Generic[Key]):
    """Generates for any number of sources in bounded memory: at most `targets` of them are under way.

    One engine serves many streams, one after the other; where one stops, be it inside a step, does not matter to the
    next. It holds the model's own weights, or one copy cast to `dtype` when it was made. Weights in bf16 are laid out
    for products on CPU then, and later changes of theirs are not seen.

    On a GPU the processor waits for the device once in a step, to learn which sources are done; where some are, four
    times more, for their texts; and now and then for whether a model's logits are its head's product (`CapturedHead`).
    Nothing is copied to the device but where sources enter or leave.

    What is kept from step to step is made outside `torch.inference_mode`, so that a stream may enter and leave it.
    """

    @torch.inference_mode(False)
    @torch.no_grad()  # inside, as the other one switches gradients on
    def __init__(
        self, model: PreTrainedModel, generation: Generation, max_length: int, targets: int = 256,
        dtype: torch.dtype | None = None, generator: torch.Generator | None = None, scores: bool = True,
    ) -> None:  # fmt: skip
        beams = generation.targets_per_source
        self.places = max(1, targets // beams)
        special = Tokens.of(model)
        self.runner = ModelRunner(model, self.places, beams, max_length, special.start, dtype, generation.quantize)
        device = self.runner.device
        self.search = _search(generation, self.places, max_length, special, device, generator, scores)
        self._tokens = torch.zeros(self.places, beams, dtype=torch.long, device=device)  # written last
        self._keys: list[Key] = []
        self._lengths: list[int] = []
        self._lock = RLock()  # held while the stream changes, and during a step; a step that was stopped may keep it
        self._stream: object = None  # the one that goes on
        self._thread = current_thread()  # that has taken its last step
        self._is_whole = True  # no step has stopped half done

    def stream(self, sources: Iterable[tuple[Key, Tensor]]) -> Iterator[tuple[Key, list[Hypothesis]]]:
        """The hypotheses of each source (S,), as they are done; no more sources are taken than there are places.

        Sources of similar length should follow each other. What a former stream of this thread left unfinished is
        dropped, and going on with that one raises `UserError`; so does a stream beside one of another thread.
        """
        own = self._begin()
        try:
            waiting, more = iter(sources), True
            while self._goes_on(own) or more:
                free = self.places - len(self._keys)
                if more and (not self._keys or (self.runner.mixes_lengths and REFILL * free >= self.places)):
                    new = list(islice(waiting, free))
                    more = len(new) == free
                    for group in _by_length(new, padded=not self.runner.reads_side_by_side):
                        yield from self._run(own, group)
                if self._keys:
                    yield from self._run(own)
        finally:
            if self._stream is own:
                self._stream = None

    @torch.inference_mode(False)
    @torch.no_grad()
    def _begin(self) -> object:
        """Make room for a new stream, and give what tells it from others."""
        with self._lock:
            here = current_thread()
            if self._stream is not None and self._thread is not here and self._thread.is_alive():
                expected = "a stream of another thread has not ended; each thread needs a streamer of its own"
                raise UserError("streamer", "in use", expected)
            if not self._is_whole:
                self.runner.reset()
            self._keys, self._lengths, self._is_whole = [], [], True
            self._stream, self._thread = object(), here
            return self._stream

    def _goes_on(self, own: object) -> bool:
        """Whether sources of a stream are under way. Raises `UserError` if a later stream has taken its place."""
        if self._stream is not own:
            expected = "its streamer has begun another one since; end it first, or use two streamers"
            raise UserError("stream", "dropped", expected)
        return bool(self._keys)

    @contextmanager
    def _step(self, own: object) -> Iterator[None]:
        """What changes the state of a stream, whole only if it comes to its end."""
        with self._lock:
            self._goes_on(own)
            self._thread, self._is_whole = current_thread(), False
            yield
            self._is_whole = True

    @torch.inference_mode(False)
    @torch.no_grad()
    def _run(self, own: object, group: Sequence[tuple[Key, Tensor]] = ()) -> list[tuple[Key, list[Hypothesis]]]:
        """Read new sources, or take one step with those under way; the sources that are now done."""
        device = self.runner.device
        with self._step(own), torch.autocast(device.type, enabled=False):
            if group:
                places = list(range(len(self._keys), len(self._keys) + len(group)))
                new = torch.tensor(places, device=device)
                at: Places = new
                move = self.search.begin(new, self.runner.admit(places, [ids for _, ids in group]))
                self._keys += [key for key, _ in group]
                self._lengths += [1] * len(group)
            else:
                places, at = list(range(len(self._keys))), slice(0, len(self._keys))
                pieces = self.runner.step(self._tokens[at], self._lengths, self.search.lengths[at])
                move = self.search.step(len(places), max(self._lengths), pieces)
                if move.parents is not None:
                    self.runner.reorder(move.parents)
                self._lengths = [length + 1 for length in self._lengths]
            self._tokens[at] = move.tokens
            return self._leave([place for place, done in zip(places, move.done.tolist(), strict=True) if done])

    def _leave(self, places: list[int]) -> list[tuple[Key, list[Hypothesis]]]:
        """The results of the sources in these places, which the last sources then take."""
        if not places:
            return []
        found = self.search.hypotheses(torch.tensor(places, device=self.runner.device))
        finished = [(self._keys[place], hypotheses) for place, hypotheses in zip(places, found, strict=True)]
        kept, done = len(self._keys) - len(places), set(places)
        into = [place for place in places if place < kept]
        out_of = [place for place in range(kept, len(self._keys)) if place not in done]
        if into:
            self.runner.move(into, out_of)
            to, of = (torch.tensor(each, device=self.runner.device) for each in (into, out_of))
            self.search.move(to, of)
            self._tokens[to] = self._tokens[of]
            for place, other in zip(into, out_of, strict=True):
                self._keys[place], self._lengths[place] = self._keys[other], self._lengths[other]
        del self._keys[kept:], self._lengths[kept:]
        return finished


def _search(
    generation: Generation, places: int, max_length: int, special: Tokens, device: torch.device,
    generator: torch.Generator | None, scores: bool,
) -> Search:  # fmt: skip
    """What chooses the tokens: a beam search, or for one beam the greedy search and draws."""
    if generation.num_beams > 1:
        return BeamSearch(generation, places, max_length, special, device)
    return Sampling(generation, places, max_length, special, device, generator, scores)


def _by_length(sources: Sequence[tuple[Key, Tensor]], padded: bool) -> Iterator[list[tuple[Key, Tensor]]]:
    """Longest first, as many at a time as `READ_AT_ONCE` allows."""
    group: list[tuple[Key, Tensor]] = []
    tokens = 0
    for source in sorted(sources, key=lambda source: -len(source[1])):
        tokens += len(group[0][1]) if group and padded else len(source[1])
        if group and tokens > READ_AT_ONCE:
            yield group
            group, tokens = [], len(source[1])
        group.append(source)
    if group:
        yield group
