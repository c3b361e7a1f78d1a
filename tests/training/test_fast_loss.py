"""`TrainingLoss` is the plain loss for whoever wraps, hooks, checkpoints, or shares the model between threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import tiny
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from encdec_lightning import compose
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.kernels import gradients as gradients_module
from encdec_lightning.kernels import working_copy
from encdec_lightning.kernels.attention_interface import use_attention
from encdec_lightning.kernels.stand_in import runs_as_shipped
from encdec_lightning.training.loss import TrainingLoss, token_losses


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tiny tables and weights take the way of large ones."""
    for module in (gradients_module, working_copy):
        monkeypatch.setattr(module, "SMALLEST", 16)


@pytest.fixture(scope="module")
def shipped(files: tiny.Files) -> ComposedModel:
    torch.manual_seed(0)
    model = compose(files.bert, files.bert, "tied", dropout=0.1)
    use_attention(model)
    return model.train()


@pytest.fixture
def model(shipped: ComposedModel) -> ComposedModel:
    return copy.deepcopy(shipped)


def a_batch(seed: int = 0, examples: int = 3) -> Batch:
    made = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 40, (examples, 9), generator=made)
    targets = torch.randint(5, 40, (examples, 5), generator=made)
    lengths, target_lengths = torch.tensor([9, 7, 4])[:examples], torch.tensor([5, 4, 2])[:examples]
    return Batch((), examples, ids, lengths, targets, targets, target_lengths, 11, 31)


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def checkpointed(module: nn.Module, reentrant: bool) -> None:
    inner = module.forward
    module.forward = lambda *given, **more: checkpoint(partial(inner, **more), *given, use_reentrant=reentrant)


class Checkpointed(nn.Module):
    """A module in another's place, as torch's and others' wrappers are."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *given, **more):
        return checkpoint(self.module, *given, use_reentrant=True, **more)

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def replaced(model: ComposedModel) -> None:
    layers = model.encoder.encoder.layer
    layers[0].output = Checkpointed(layers[0].output)


def scaled(module: nn.Module) -> None:
    inner = module.forward
    module.forward = lambda given, *more, **named: inner(given, *more, **named) * 1.5


def doubled(module: nn.Module, given, output: torch.Tensor) -> torch.Tensor:
    return output * 2


WRAPPERS: dict[str, Callable[[ComposedModel], object]] = {
    "nothing": lambda model: None,
    "reentrant layer": lambda model: checkpointed(model.encoder.encoder.layer[0].output, True),
    "checkpointed layer": lambda model: checkpointed(model.encoder.encoder.layer[1].output, False),
    "checkpointed attention": lambda model: checkpointed(model.decoder.bert.encoder.layer[0].attention.self, False),
    "module in its place": replaced,
    "embedding's forward": lambda model: scaled(model.encoder.embeddings.word_embeddings),
    "head's forward": lambda model: scaled(model.get_output_embeddings()),
    "head's hook": lambda model: model.get_output_embeddings().register_forward_hook(doubled),
    "head's pre-hook": lambda model: model.get_output_embeddings().register_forward_pre_hook(lambda _, x: (x[0] * 2,)),
    "layer's hook": lambda model: model.encoder.encoder.layer[0].output.register_forward_hook(
        lambda module, given, output: output * torch.arange(output.shape[1])[None, :, None]
    ),
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_modules_are_run_as_their_wrappers_want(model: ComposedModel, wrapper: str, autocast: bool) -> None:
    model.eval()  # the model below and the plain one draw other numbers
    loss, batch = TrainingLoss(model), a_batch()
    expected_dtype = torch.float32 if autocast else torch.float64
    model = model.to(expected_dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss(batch)  # the wrapper comes when the loss has seen the model
        WRAPPERS[wrapper](model)
        own = model.encoder.embeddings.word_embeddings.__dict__.get("forward")
        value = loss(batch, 0.1)
    ours = gradients(model, value)
    assert model.encoder.embeddings.word_embeddings.__dict__.get("forward") is own
    assert runs_as_shipped(model) == (wrapper == "nothing")
    plain = copy.deepcopy(model).double() if wrapper == "nothing" else model.double()
    expected_loss = token_losses(plain, batch, 0.1).sum()
    expected = gradients(plain, expected_loss)
    assert ours.keys() == expected.keys()
    error = sum(float((ours[name] - each).square().sum()) for name, each in expected.items()) ** 0.5
    size = sum(float(each.square().sum()) for each in expected.values()) ** 0.5
    assert abs(value.item() / expected_loss.item() - 1) < (0.02 if autocast else 1e-10)
    assert error < (0.05 if autocast else 1e-9) * size


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_dropout_is_the_same_in_both_passes(model: ComposedModel, reentrant: bool) -> None:
    """The gradient's step down must lower the loss of the same draw by its square."""
    for layer in model.encoder.encoder.layer:
        checkpointed(layer.output, reentrant)
    model = model.double()
    loss, batch = TrainingLoss(model), a_batch()

    def drawn() -> torch.Tensor:
        torch.manual_seed(3)
        return loss(batch)

    value = drawn()
    grads = gradients(model, value)
    square, step = sum(float(each.square().sum()) for each in grads.values()), 1e-6
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in grads:
                weight -= step * grads[name]
    assert (value.item() - drawn().item()) / step == pytest.approx(square, rel=1e-3)


@pytest.fixture
def everywhere() -> Iterator[list[str]]:
    seen: list[str] = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, given, output: seen.append(str(given)[:1]))
    yield seen
    hook.remove()


def test_hooks_of_all_modules_see_them_all(model: ComposedModel, everywhere: list[str]) -> None:
    TrainingLoss(model)(a_batch())
    seen = len(everywhere)
    token_losses(model, a_batch())
    assert seen == len(everywhere) - seen


def test_a_wrapped_class_is_recognised(model: ComposedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(model.encoder.encoder.layer[0].output)
    inner, calls = kind.forward, []

    def forward(self, *given, **more):
        calls.append(given[0].shape)
        return inner(self, *given, **more)

    monkeypatch.setattr(kind, "forward", forward)
    assert not runs_as_shipped(model)
    TrainingLoss(model)(a_batch())
    assert calls[0][:2] == (3, 9)


@pytest.mark.parametrize("autocast", [False, True])
def test_backward_passes_of_a_kept_graph_are_equal(model: ComposedModel, autocast: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = TrainingLoss(model)(a_batch())
    parameters = [each for each in model.parameters() if each.requires_grad]
    first = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(loss, parameters, allow_unused=True)
    for one, other in zip(first, second, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("autocast", [False, True])
def test_threads_share_a_model(model: ComposedModel, autocast: bool) -> None:
    """Two of them through one loss, and one that runs the model as it is."""
    model.eval()
    loss, batches = TrainingLoss(model), [a_batch(seed, 1 + seed % 3) for seed in range(4)]

    def once(batch: Batch) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return loss(batch).item()

    def plain(batch: Batch) -> float:
        with torch.no_grad():
            return token_losses(model, batch).sum().item()

    expected = [once(batch) for batch in batches], [plain(batch) for batch in batches]
    wrong: list[object] = []

    def run(of: Callable[[Batch], float], values: list[float], shift: int) -> None:
        try:
            for turn in range(12):
                index = (turn + shift) % len(batches)
                found = of(batches[index])
                if abs(found - values[index]) > 1e-5 * values[index]:
                    wrong.append((found, values[index]))
        except Exception as error:
            wrong.append(error)

    jobs = [(once, expected[0], 0), (once, expected[0], 1), (plain, expected[1], 2)]
    threads = [threading.Thread(target=run, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_interrupted_call_leaves_the_model_as_it_was(model: ComposedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, batch = TrainingLoss(model), a_batch()
    before = {name: id(each) for name, each in model.named_parameters()}

    def interrupted(*given, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, torch.autocast("cpu", torch.bfloat16), pytest.raises(KeyboardInterrupt):
        loss(batch)
        patch.setattr("encdec_lightning.kernels.attention.PackedScores.apply", interrupted)
        loss(batch)
    assert {name: id(each) for name, each in model.named_parameters()} == before
    assert runs_as_shipped(model) and all(module.training for module in model.modules())
