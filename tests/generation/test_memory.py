"""One policy of memory: prediction, validation and test go on with half the targets under way where it runs out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import searches
import tiny
import torch
from torch import nn

from encdec_lightning import (
    Generation,
    Loading,
    Seq2SeqDataModule,
    Seq2SeqModule,
    Task,
    Tokenizers,
    Training,
    UserError,
    compose,
)
from encdec_lightning.data.batches.batch import collate
from encdec_lightning.generation import logits, memory
from encdec_lightning.generation import predict as prediction
from encdec_lightning.generation.memory import ElasticStreamer, copied_weights, free_memory, targets_that_fit
from encdec_lightning.kernels import onednn_linear

TEXTS = searches.sources([9, 4, 7, 3, 5, 12, 6, 8])


@pytest.fixture(scope="module")
def tested(files: tiny.Files):
    """What makes a module whose texts differ, and its test batch."""
    task = Task(train=files.train, validation=files.validation, test=files.test, source="document", target="summary",
                id="key", max_source_length=40, max_target_length=12)  # fmt: skip
    tokenizers = Tokenizers.from_pretrained(files.bert, files.gpt2)
    torch.manual_seed(1)
    model = searches.sharpen(compose(files.bert, files.gpt2, tokenizers=tokenizers))
    examples = Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=400)).examples("test")
    batch = collate(examples, range(12), tokenizers, 1)
    return lambda generation: Seq2SeqModule(model, tokenizers, task, Training(), generation).eval(), batch


def of_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def of_a_processor() -> None:
    """What torch really raises there: more memory than there are addresses is never granted."""
    torch.empty(1 << 50)


@pytest.fixture(params=[of_a_gpu, of_a_processor])
def run_out(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Raises what says that memory has run out."""
    return request.param


def failing_above(most: int, given: list[int], run_out: Callable[[], None] = of_a_gpu) -> Callable[..., Any]:
    """`streamer` whose memory runs out at its third source where more than so many targets are under way."""

    def made(model: Any, generation: Generation, *, targets: int, **options: Any) -> Any:
        start = streamer(model, generation, targets=targets, **options)
        given.append(targets)

        def run(sources: Any) -> Any:
            for number, each in enumerate(start(sources)):
                if number == 2 and targets > most:
                    run_out()
                yield each

        return run

    streamer = memory.streamer
    return made


def elastic(model: Any, options: Generation, **more: Any) -> ElasticStreamer[int]:
    return ElasticStreamer(model, options, longest_source=12, max_target_length=8, **more)


def test_what_is_done_stays_done_and_the_rest_goes_on_with_half(probe, monkeypatch, run_out):
    model = searches.sharpen(copy.deepcopy(probe("decoder", "bert")))
    options, given = Generation(num_beams=3), []
    expected = dict(elastic(model, options)(list(enumerate(TEXTS))))
    monkeypatch.setattr(memory, "streamer", failing_above(63, given, run_out))
    start = elastic(model, options)
    done = list(start(list(enumerate(TEXTS))))
    assert given == [255, 126, 63] and start.targets == 63
    assert sorted(key for key, _ in done) == list(range(len(TEXTS)))
    assert {key: [each.tokens for each in found] for key, found in done} == {
        key: [each.tokens for each in found] for key, found in expected.items()
    }
    assert len(list(start(list(enumerate(TEXTS))))) == len(TEXTS) and given == [255, 126, 63]  # and it stays so


def test_memory_that_does_not_hold_one_source_is_one_sentence(probe, monkeypatch, run_out):
    def never(*args: Any, **options: Any) -> Any:
        run_out()

    monkeypatch.setattr(memory, "streamer", never)
    sentence = "generation.num_beams is 2: the memory of cpu does not hold the 2 targets of one source."
    with pytest.raises(UserError) as raised:
        list(elastic(probe("decoder", "bert"), Generation(num_beams=2))(list(enumerate(TEXTS))))
    assert str(raised.value) == sentence


def test_validation_and_test_recover_too(tested, monkeypatch, run_out):
    made, batch = tested
    module = made(Generation(num_beams=2, max_length=6))
    expected = sorted((each.id, each.prediction) for each in module.predict(batch))
    given: list[int] = []
    monkeypatch.setattr(memory, "streamer", failing_above(16, given, run_out))
    assert sorted((each.id, each.prediction) for each in module.predict(batch)) == expected
    assert given == [256, 128, 64, 32, 16]


@pytest.mark.parametrize("error", [RuntimeError("expected 2D input"), MemoryError()])
def test_what_is_no_lack_of_memory_goes_on_as_it_is(probe, monkeypatch, error):
    """Python's own lack is one too."""

    def broken(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(memory, "streamer", broken)
    with pytest.raises(UserError if isinstance(error, MemoryError) else RuntimeError):
        list(elastic(probe("decoder", "bert"), Generation())(list(enumerate(TEXTS))))


def test_validation_and_test_take_no_more_than_the_memory_holds(tested, monkeypatch):
    made, batch = tested
    module, given = made(Generation(do_sample=True, temperature=3.0)), []
    expected = [each.prediction for each in module.predict(batch)]
    monkeypatch.setattr(memory, "streamer", failing_above(999, given))
    assert [each.prediction for each in module.predict(batch)] == expected  # with the same draws
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)
    module.predict(batch)
    assert given == [prediction.MOST, 1]


def test_an_earlier_number_is_a_limit_and_so_is_that_of_the_device(probe):
    model = probe("decoder", "bert")
    assert elastic(model, Generation(num_beams=3), most=64).targets == 63
    assert elastic(model, Generation(num_beams=3), most=1024).targets == 255


def test_targets_longer_than_the_model_allows_are_refused_at_once(probe):
    with pytest.raises(UserError, match="max_length is 9999: the decoder has"):
        elastic(probe("decoder", "bert"), Generation(max_length=9999))


def test_weights_that_the_engine_copies_are_counted(probe, monkeypatch):
    model, options = probe("decoder", "bert"), Generation(num_beams=4)
    monkeypatch.setattr(memory, "runs_in_onednn", lambda weight: False)
    assert copied_weights(model, torch.float32) == 0
    every = sum(each.numel() for each in model.parameters())
    linear = {each.weight for each in model.modules() if isinstance(each, nn.Linear)}
    for lays_out in (False, True):
        monkeypatch.setattr(memory, "runs_in_onednn", lambda weight, lays_out=lays_out: lays_out)
        expected = 2 * (every + lays_out * sum(each.numel() for each in linear))
        assert copied_weights(model, torch.bfloat16) == expected
        with torch.autocast("cpu", torch.bfloat16):
            few = targets_that_fit(model, options, 50, 10, 1 << 21, 256)
            assert targets_that_fit(model, options, 50, 10, (1 << 21) + expected, 256) > few
    assert copied_weights(model, torch.float32) == sum(4 * each.numel() for each in linear)


def test_layers_and_head_are_what_an_engine_lays_out(probe, monkeypatch):
    """What is counted is what is laid out: each linear layer once, the head's in pieces."""
    if not onednn_linear.runs_in_onednn(torch.zeros(2, 2).bfloat16()):
        pytest.skip("oneDNN has no bf16 here")
    laid_out: list[torch.Tensor] = []
    theirs = onednn_linear.onednn_linear

    def counted(weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
        laid_out.append(weight)
        return theirs(weight, bias)

    for module in (onednn_linear, logits):
        monkeypatch.setattr(module, "onednn_linear", counted)
    model = searches.sharpen(copy.deepcopy(probe("decoder", "bert")))
    with torch.autocast("cpu", torch.bfloat16):
        list(elastic(model, Generation())(list(enumerate(TEXTS))))
    cast = 2 * sum(each.numel() for each in model.parameters())
    assert cast + 2 * sum(each.numel() for each in laid_out) == copied_weights(model, torch.bfloat16)


def test_what_a_control_group_has_left(tmp_path: Path):
    """Of all groups above a process the one that has least; what the page cache holds is free."""
    own, job = tmp_path / "own", tmp_path / "slurm" / "job_1"
    own.write_text("12:cpuset:/elsewhere\n0::/slurm/job_1/step_0\n")
    job.mkdir(parents=True)
    (job / "memory.max").write_text("16000\n")
    (job / "memory.current").write_text("12000\n")
    (job / "memory.stat").write_text("anon 9000\ninactive_file 2500\nactive_file 500\n")
    (tmp_path / "slurm" / "memory.max").write_text("max\n")
    (tmp_path / "memory.max").write_text("20000\n")
    assert {memory._left_of_group(folder) for folder in memory._groups(tmp_path, own)} == {6500, 20000}
    (job / "memory.current").write_text("99000\n")
    assert min(memory._left_of_group(folder) for folder in memory._groups(tmp_path, own)) == 0
    own.write_text("0::/../outside\n")
    assert memory._groups(tmp_path, own) == [tmp_path]
    assert memory._groups(tmp_path / "none", tmp_path / "none") == []


def test_free_memory_is_what_the_system_says_and_a_guess_where_it_says_nothing(monkeypatch):
    assert free_memory(torch.device("cpu")) > 1 << 20

    def gone(self: Any, *args: Any, **options: Any) -> str:
        raise OSError

    monkeypatch.setattr(memory.Path, "read_text", gone)
    assert free_memory(torch.device("cpu")) == 4 << 30
