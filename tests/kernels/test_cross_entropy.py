"""The head's loss and gradients are as exact as autocast's own, however sure the model is."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from encdec_lightning.kernels import cross_entropy
from encdec_lightning.kernels.cross_entropy import linear_cross_entropy

TOKENS, WIDTH, VOCABULARY = 240, 64, 1500


def head_at(loss: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, a weight and targets, in float64; each token has this loss."""
    made = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, WIDTH, generator=made).double() / WIDTH**0.5
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=made)
    noise = torch.randn(TOKENS, WIDTH, generator=made).double()
    low, high = torch.full((TOKENS, 1), -1000.0).double(), torch.full((TOKENS, 1), 1000.0).double()
    for _ in range(60):  # bisection of how far a hidden state points to its target
        middle = (low + high) / 2
        found = functional.cross_entropy((noise + middle * weight[targets]) @ weight.t(), targets, reduction="none")
        low, high = (
            torch.where((found[:, None] > loss) == up, middle, each) for up, each in ((True, low), (False, high))
        )
    return (noise + low * weight[targets]).float().double(), weight, targets


def results(ours, hidden, weight, targets, dtype, smoothing=0.0, factor=1.0, autocast=True):
    """The loss and the gradients of hidden states, weight and bias, in float64."""
    given = [each.to(dtype).clone().requires_grad_() for each in (hidden, weight, torch.zeros(len(weight)))]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.float32):
        if ours:
            loss = linear_cross_entropy(*given, targets, smoothing)
        else:
            logits = functional.linear(*given)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    (loss * factor).backward()
    return [loss.detach().double(), *(each.grad.double() for each in given)]


def errors(values, exact):
    return [float((value - true).norm() / true.norm()) for value, true in zip(values, exact, strict=True)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", [1e-6, 0.0008, 0.004, 0.02, 0.2, 0.69, 2.0, 10.0, 100.0])
def test_bf16_is_as_exact_as_autocast(loss: float, smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cross_entropy.PIECE, "cpu", TOKENS * VOCABULARY // 24)
    where = head_at(loss)
    exact = results(False, *where, torch.float64, smoothing, 1 / 997)
    theirs = errors(results(False, *where, torch.float32, smoothing, 1 / 997), exact)
    ours = errors(results(True, *where, torch.float32, smoothing, 1 / 997), exact)
    for name, mine, allowed in zip(("loss", "states", "weight", "bias"), ours, theirs, strict=True):
        # a bf16 number's own rounding, 0.2%, is what states have once more
        assert mine <= 1.2 * allowed + 0.002, name


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", [1e-9, 1e-3, 0.69, 5.0, 100.0, 300.0])
def test_fp32_and_float64_are_torchs(loss: float, smoothing: float) -> None:
    where = head_at(loss)
    exact = results(False, *where, torch.float64, smoothing)
    assert (
        max(errors(results(True, *where, torch.float64, smoothing)[1:], exact[1:])) < 5e-6
    )  # processors round differently
    theirs = errors(results(False, *where, torch.float32, smoothing, autocast=False), exact)
    ours = errors(results(True, *where, torch.float32, smoothing, autocast=False), exact)
    assert all(mine <= 1.2 * allowed + 1e-6 for mine, allowed in zip(ours, theirs, strict=True))


def test_a_sure_token_keeps_its_loss_and_gradient() -> None:
    """bf16 has no number between 0.996 and 1; both were zero here."""
    weight, hidden, targets = torch.eye(4), torch.eye(4)[:1] * 9, torch.tensor([0])
    loss, of_hidden, *_ = results(True, hidden, weight, targets, torch.bfloat16)
    rest = 3 / (3 + torch.tensor(9.0).double().exp())
    assert loss.item() == pytest.approx(-torch.log1p(-rest).item(), rel=1e-3)
    assert of_hidden[0, 0].item() == pytest.approx(-rest.item(), rel=0.005)


def test_the_losss_factor_is_not_rounded() -> None:
    where = head_at(2.0)
    once, scaled = (results(True, *where, torch.float32, 0.0, factor) for factor in (1.0, 1 / 997))
    for whole, part in zip(once[1:], scaled[1:], strict=True):
        ratio = float((whole * part).sum() / (whole * whole).sum() * 997)
        assert abs(ratio - 1) < 2e-4  # 1 / 997 in bf16 is 0.9964 of it


@pytest.mark.parametrize("pieces", [1, 24])
def test_weights_in_bf16_get_sums_of_pieces_in_fp32(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cross_entropy.PIECE, "cpu", TOKENS * VOCABULARY // pieces)
    hidden, weight, targets = (each.bfloat16().double() if each.is_floating_point() else each for each in head_at(2.0))
    exact = results(False, hidden, weight, targets, torch.float64)
    theirs, ours = (errors(results(who, hidden, weight, targets, torch.bfloat16), exact) for who in (False, True))
    assert all(mine <= 1.2 * allowed + 0.001 for mine, allowed in zip(ours, theirs, strict=True))


def test_fp16_leaves_small_probabilities_to_the_scale_of_the_loss() -> None:
    hidden, weight, targets = (each.half() if each.is_floating_point() else each for each in head_at(0.02))
    scaled = [results(ours, hidden, weight, targets, torch.float16, 0.0, 1024.0) for ours in (True, False)]
    for mine, theirs in zip(*scaled, strict=True):
        assert torch.equal(mine, theirs)


def test_a_second_backward_is_torchs() -> None:
    hidden, weight, targets = head_at(2.0)
    expected = results(False, hidden, weight, targets, torch.float64)
    given = [each.clone().requires_grad_() for each in (hidden, weight)]
    loss = linear_cross_entropy(*given, None, targets)
    loss.backward(retain_graph=True)
    (loss * 2).backward(retain_graph=True)
    loss.backward()
    for value, true in zip(given, expected[1:3], strict=True):
        torch.testing.assert_close(value.grad, 4 * true)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    loss = linear_cross_entropy(*given, None, targets)
    (alone,) = torch.autograd.grad(loss, given[1])  # the states' part is not asked for
    torch.testing.assert_close(alone, expected[2])


def test_no_target_is_no_loss() -> None:
    weight = torch.randn(7, 3, requires_grad=True)
    loss = linear_cross_entropy(torch.randn(0, 3), weight, None, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss == 0 and not weight.grad.any()
