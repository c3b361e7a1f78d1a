from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from encdec_lightning.kernels.dropout import dropout
from encdec_lightning.kernels.fast_functions import FastFunctions
from encdec_lightning.kernels.noise import (
    FIRST,
    GROWTH,
    LEVELS,
    MOST,
    PIECE,
    DropoutBits,
    draw_key,
    draw_passing,
    dropout_noise,
    uniform_numbers,
)

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def noise_of(shape: tuple[int, ...], dtype: torch.dtype, p: float) -> torch.Tensor:
    return dropout_noise(draw_passing(math.prod(shape), p, draw_key()), p, shape, dtype)


def test_bits_are_uniform_and_independent() -> None:
    """Chi-squared over the high and the low byte, and over pairs of neighbours; each at about 5 standard deviations."""
    bits = torch.from_numpy(uniform_numbers(1 << 22, [1, 2, 0])).to(torch.int64) + (1 << 15)
    for values, cells in ((bits >> 8, 256), (bits & 255, 256), ((bits[:-1] >> 12) * 16 + (bits[1:] >> 12), 256)):
        counts = torch.bincount(values, minlength=cells).double()
        expected = len(values) / cells
        chi = float(((counts - expected) ** 2 / expected).sum())
        assert abs(chi - (cells - 1)) < 5 * (2 * (cells - 1)) ** 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_noise_has_dropouts_share_and_scale(dtype: torch.dtype, p: float) -> None:
    torch.manual_seed(1)
    count = 1 << 20
    noise = noise_of((1024, 1024), dtype, p)
    assert noise.dtype == dtype
    assert set(noise.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p), dtype=dtype).item()}
    dropped = float((noise == 0).double().mean())
    assert abs(dropped - p) < 5 * (p * (1 - p) / count) ** 0.5 + 0.5 / LEVELS
    by_row = (noise == 0).double().sum(1)  # binomial in every row, as independent elements are
    assert by_row.var().item() == pytest.approx(1024 * p * (1 - p), rel=0.25)


def test_elements_share_no_noise_with_their_neighbours_or_the_next_call() -> None:
    torch.manual_seed(2)
    first, second = (noise_of((1 << 20,), torch.float64, 0.5) - 1 for _ in range(2))
    for other in (first.roll(1), first.roll(4), first.roll(1024), second):
        assert abs(float((first * other).mean())) < 5 / 1024


@given(shape=st.lists(st.integers(0, 7), max_size=4), p=st.floats(0, 1))
def test_any_shape_and_share(shape: list[int], p: float) -> None:
    noise = noise_of(tuple(shape), torch.float32, p)
    assert list(noise.shape) == shape
    assert ((noise == 0) | (noise >= 1)).all()


def test_the_global_generator_alone_decides() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = noise_of((1000,), torch.bfloat16, 0.1)
    assert not torch.equal(noise_of((1000,), torch.bfloat16, 0.1), first)
    torch.set_rng_state(state)
    assert torch.equal(noise_of((1000,), torch.bfloat16, 0.1), first)


@given(counts=st.lists(st.integers(0, 3 * FIRST), min_size=1, max_size=8), p=st.floats(0, 1))
def test_bits_that_are_handed_out_in_turn_are_those_of_blocks(counts: list[int], p: float) -> None:
    """Nobody's are another's, and a block serves for as long as it has enough left."""
    bits, following = DropoutBits(), FIRST
    torch.manual_seed(5)
    taken = [bits.take(count, p) for count in counts]
    torch.manual_seed(5)
    block, drawn = torch.empty(0, dtype=torch.uint8), False
    for count, found in zip(counts, taken, strict=True):
        size = -(-count // 8)
        if len(block) < size or not drawn:
            block = draw_passing(max(following, count), p, draw_key())
            drawn, following = True, min(GROWTH * following, MOST)
        assert torch.equal(found, block[:size])
        block = block[size:]


def test_two_probabilities_share_no_bits() -> None:
    """Where one element passes says nothing of the other's."""
    bits = DropoutBits()
    first, second = (dropout_noise(bits.take(1 << 20, p), p, (1 << 20,), torch.float64) - 1 for p in (0.5, 0.4))
    assert abs(float((first * second).mean())) < 5 / 1024


def test_an_output_may_be_written_to_in_place() -> None:
    """As those of xlm, flaubert and xmod are."""
    values = torch.randn(4, 5, requires_grad=True)
    made = dropout(values, 0.3)
    kept = made.detach() != 0
    made *= 2
    made.transpose(0, 1).add_(1)
    made.sum().backward()
    assert torch.allclose(values.grad, kept * (2 / 0.7))


def test_a_pass_through_many_modules_draws_few_keys() -> None:
    module, x = torch.nn.Dropout(0.1), torch.ones(100, 64)
    torch.manual_seed(6)
    with FastFunctions(DropoutBits()):
        made = [module(x) for _ in range(30)]  # 192,000 numbers: two blocks
    state = torch.get_rng_state()
    torch.manual_seed(6)
    draw_key(), draw_key()
    assert torch.equal(torch.get_rng_state(), state)
    assert len({each.numpy().tobytes() for each in made}) == 30


def test_modules_and_functions_of_torch_use_it_within_the_context() -> None:
    module, x = torch.nn.Dropout(0.3), torch.ones(400, 500)
    torch.manual_seed(4)
    expected = dropout(x, 0.3)
    for call in (
        lambda: module(x),
        lambda: functional.dropout(x, 0.3),
        lambda: functional.dropout(x.clone(), 0.3, True, True),
    ):
        torch.manual_seed(4)
        with FastFunctions(DropoutBits()):
            assert torch.equal(call(), expected)
    torch.manual_seed(4)
    assert not torch.equal(module(x), expected)  # torch's own outside
    assert abs(float((expected == 0).float().mean()) - 0.3) < 0.01


def test_what_drops_nothing_is_untouched_and_draws_nothing() -> None:
    x = torch.randn(10)
    state = torch.get_rng_state()
    with FastFunctions(DropoutBits()):
        assert torch.equal(functional.dropout(x, 0.0), x)
        assert torch.equal(functional.dropout(x, 0.5, training=False), x)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gradient_passes_where_the_value_did() -> None:
    x = torch.randn(1000, requires_grad=True)
    output = dropout(x, 0.4)
    output.sum().backward()
    assert torch.allclose(x.grad * x.detach(), output.detach())


def test_numbers_do_not_depend_on_the_number_of_threads() -> None:
    key, count = draw_key(), 3 * PIECE + 5
    program = (
        "import sys, torch; torch.set_num_threads(int(sys.argv[1]));"
        "from encdec_lightning.kernels.noise import draw_passing;"
        f"print(hash(draw_passing({count}, 0.1, torch.tensor({key.tolist()})).numpy().tobytes()))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    sums = {
        subprocess.run(
            [sys.executable, "-c", program, str(threads)], check=True, capture_output=True, text=True, env=environment
        ).stdout
        for threads in (1, 3)
    }
    assert len(sums) == 1
    drawn = draw_passing(count, 0.1, key)
    assert torch.equal(draw_passing(count, 0.1, key), drawn)
    assert torch.equal(draw_passing(PIECE // 2, 0.1, key), drawn[: PIECE // 16])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_draws_too() -> None:
    """The pool's threads are not the child's; it waited for them for ever."""
    program = (
        "import os, sys, torch, warnings; from encdec_lightning.kernels.noise import PIECE, draw_passing;"
        "warnings.simplefilter('ignore'); key = torch.tensor([1, 2]); bits = draw_passing(3 * PIECE, 0.1, key);"
        "child = os.fork(); same = torch.equal(draw_passing(3 * PIECE, 0.1, key), bits);"
        "child or os._exit(int(not same)); sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=600).returncode == 0
