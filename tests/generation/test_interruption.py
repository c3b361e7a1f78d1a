"""A stream that stops in its middle leaves nothing to the next one; two users of one model do not disturb each other."""

from __future__ import annotations

import copy
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Barrier
from types import FrameType
from typing import Any

import pytest
import searches
import torch

from encdec_lightning import Generation, UserError
from encdec_lightning.generation.engine import Engine
from encdec_lightning.generation.generate import stream, streamer

MODELS = [
    ("decoder", "bert"), ("decoder", "gpt2"), ("decoder", "bart"), ("decoder", "xglm"), ("encoder", "t5"),
    ("prefix", "gpt2"), ("prefix", "opt"),
]  # fmt: skip
FIRST, SECOND = searches.sources([4, 7, 3, 5], seed=1), searches.sources([9, 30, 17, 3, 12])


class Stop(BaseException):
    """Like a KeyboardInterrupt, or memory that runs out: raised anywhere."""


@contextmanager
def stopping(after: int | None) -> Iterator[list[int]]:
    """Raise `Stop` before a line of the engine or of a model, that so many came before; gives how many there were."""
    lines = [0]

    def trace(frame: FrameType, event: str, given: object) -> Any:
        if not any(
            part in frame.f_code.co_filename for part in ("encdec_lightning/generation/", "transformers/models/")
        ):
            return None
        if event == "line":
            lines[0] += 1
            if lines[0] - 1 == after:
                raise Stop
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


def found(engine: Engine[int], texts: list[torch.Tensor]) -> list[list[list[int]]]:
    done = dict(engine.stream(enumerate(texts)))
    return [[each.tokens for each in done[number]] for number in range(len(texts))]


@pytest.mark.parametrize(("role", "family"), MODELS)
def test_stopped_at_any_line(probe, role, family):
    model = searches.sharpen(copy.deepcopy(probe(role, family)))
    options = Generation(num_beams=2, no_repeat_ngram_size=2, min_length=3)

    def fresh() -> Engine[int]:
        return Engine(model, options, 4, targets=6)

    kept, draw = fresh(), random.Random(0)
    expected = found(kept, SECOND)
    with stopping(None) as lines:
        found(kept, SECOND)
    for at in sorted(draw.sample(range(lines[0]), 5)):
        engine = fresh()
        found(engine, FIRST)  # whose sources are shorter, so that room for longer ones is made later
        for each in (engine, kept):
            with stopping(at), pytest.raises(Stop):
                found(each, SECOND)
            assert found(each, SECOND) == expected, at


@pytest.mark.parametrize(("role", "family"), MODELS)
def test_left_between_two_steps_or_by_a_source(probe, role, family):
    model = searches.sharpen(copy.deepcopy(probe(role, family)))
    engine: Engine[int] = Engine(model, Generation(num_beams=2), 8, targets=4)
    expected = found(Engine(model, Generation(num_beams=2), 8, targets=4), SECOND)

    def broken():
        yield from enumerate(FIRST[:3])
        raise OSError("the disk is gone")

    for taken in (1, 2):
        stream = engine.stream(enumerate(FIRST))
        for _ in range(taken):
            next(stream)
        stream.close()
        assert found(engine, SECOND) == expected
    with pytest.raises(OSError, match="the disk is gone"):
        list(engine.stream(broken()))
    assert found(engine, SECOND) == expected


def test_a_stream_that_another_one_has_followed_does_not_end_in_silence(probe):
    engine: Engine[int] = Engine(searches.sharpen(copy.deepcopy(probe("decoder", "bert"))), Generation(), 8, targets=2)
    first = engine.stream(enumerate(FIRST))
    next(first)
    second = engine.stream(enumerate(SECOND))
    next(second)
    with pytest.raises(UserError, match="stream is 'dropped': its streamer has begun another one since"):
        list(first)
    assert len(list(second)) == len(SECOND) - 1
    first = engine.stream(enumerate(FIRST))
    next(first)
    list(engine.stream(enumerate(SECOND)))
    with pytest.raises(UserError, match="dropped"):
        list(first)


@pytest.mark.filterwarnings("ignore:transformers' own generate")
@pytest.mark.parametrize("trains", [True, False])
def test_the_fall_back_gives_the_mode_of_each_module_back(probe, monkeypatch, trains):
    model = searches.sharpen(copy.deepcopy(probe("prefix", "bloom"))).train(trains)
    list(model.modules())[5].train(not trains)  # as of a part that is frozen
    before = [module.training for module in model.modules()]

    def stop(**arguments: object) -> None:
        assert not any(module.training for module in model.modules())
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "generate", stop)
    with pytest.raises(KeyboardInterrupt):
        list(stream(model, enumerate(FIRST), Generation(), max_target_length=4))
    assert [module.training for module in model.modules()] == before


def in_threads(*work: Callable[[], Any]) -> list[Any]:
    """What each gives, all of them begun at the same time."""
    together = Barrier(len(work))

    def run(each: Callable[[], Any]) -> Any:
        together.wait()
        return each()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


@pytest.mark.filterwarnings("ignore:transformers' own generate")
@pytest.mark.parametrize(("role", "family"), [("decoder", "bert"), ("decoder", "bart"), ("prefix", "bloom")])
def test_threads_on_one_model_do_not_disturb_each_other(probe, role, family):
    model = searches.sharpen(copy.deepcopy(probe(role, family)))
    model.train()
    jobs = [(beams, searches.sources([5, 9, 3], seed)) for seed in range(4) for beams in (1, 2)]

    def job(beams: int, texts: list[torch.Tensor]) -> Any:
        done = stream(model, enumerate(texts), Generation(num_beams=beams), max_target_length=10, targets=4)
        return [[each.tokens for each in hypotheses] for _, hypotheses in sorted(done)]

    expected = [job(*each) for each in jobs]
    for _ in range(2):
        assert in_threads(*(partial(job, *each) for each in jobs)) == expected
    assert all(module.training for module in model.modules())


@pytest.mark.filterwarnings("ignore:transformers' own generate")
def test_the_fall_back_of_one_thread_waits_for_that_of_another(probe, monkeypatch):
    model = searches.sharpen(copy.deepcopy(probe("prefix", "bloom"))).train()
    theirs = model.generate

    def slow(**arguments: Any) -> Any:
        time.sleep(0.05 * len(arguments["input_ids"]))  # the first to begin is the first to end, or the last
        assert not any(module.training for module in model.modules())
        return theirs(**arguments)

    monkeypatch.setattr(model, "generate", slow)
    work = [lambda count=count: len(list(stream(model, enumerate(FIRST[:count]), Generation(), max_target_length=4)))
            for count in (1, 2, 4)]  # fmt: skip
    assert in_threads(*work) == [1, 2, 4]
    assert all(module.training for module in model.modules())


def test_a_streamer_of_two_threads_says_so(probe):
    model = searches.sharpen(copy.deepcopy(probe("decoder", "bert")))
    expected = dict(stream(model, enumerate(SECOND), Generation(), max_target_length=8))
    start = streamer(model, Generation(), max_target_length=8, targets=2)
    mine = start(enumerate(SECOND))
    done = dict([next(mine)])

    def beside() -> None:
        with pytest.raises(UserError, match="streamer is 'in use': a stream of another thread has not ended"):
            list(start(enumerate(FIRST)))

    in_threads(beside)
    assert {number: each[0].tokens for number, each in {**done, **dict(mine)}.items()} == {
        number: each[0].tokens for number, each in expected.items()
    }
    assert in_threads(lambda: len(list(start(enumerate(FIRST))))) == [len(FIRST)]  # now it may
