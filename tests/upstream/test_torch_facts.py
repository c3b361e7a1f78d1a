"""What kernels take torch's private parts for: when a test fails here, a self-check has switched the kernel off."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

needs_bf16 = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="oneDNN has no bf16 here",
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_softmax_backward_data_is_the_gradient_of_the_softmax(dtype):
    """kernels/attention.py, _of_scores"""
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 7, dtype=dtype, requires_grad=True)
    gradient = torch.randn(2, 3, 7, dtype=dtype)
    probabilities = scores.softmax(-1)
    (expected,) = torch.autograd.grad(probabilities, scores, gradient)
    found = torch._softmax_backward_data(gradient, probabilities.detach(), -1, dtype)
    assert found.dtype == dtype and torch.equal(found, expected)


@pytest.mark.parametrize(
    ("operator", "schema"),
    [
        (
            "_linear_pointwise",
            "(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y",
        ),
        ("_reorder_linear_weight", "(Tensor self, int? batch_size=None) -> Tensor Y"),
        ("_is_mkldnn_bf16_supported", "() -> bool _0"),
    ],
)
def test_the_arguments_of_onednns_operators(operator, schema):
    """kernels/onednn_linear.py, kernels/products.py"""
    assert str(getattr(torch.ops.mkldnn, operator).default._schema) == f"mkldnn::{operator}{schema}"


@pytest.mark.parametrize(
    ("operator", "schema"),
    [
        ("qlinear_prepack", "(Tensor weight, int[]? x_shape) -> Tensor"),
        (
            "qlinear_pointwise",
            "(Tensor qx, float x_scale, int x_zero_point, Tensor qw, Tensor w_scale, Tensor w_zero_point, Tensor? bias,"
            " float output_scale, int output_zero_point, ScalarType? output_dtype, str post_op_name, "
            "Scalar?[] post_op_args, str post_op_algorithm) -> Tensor",
        ),
    ],
)
def test_the_arguments_of_onednns_quantized_operators(operator, schema):
    """kernels/int8_linear.py"""
    assert str(getattr(torch.ops.onednn, operator).default._schema) == f"onednn::{operator}{schema}"


@needs_bf16
def test_a_weight_laid_out_for_some_vectors_serves_any_number_of_them():
    """kernels/onednn_linear.py, TYPICAL"""
    torch.manual_seed(0)
    weight, bias = torch.randn(80, 48).bfloat16(), torch.randn(80).bfloat16()
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, 64)
    for count in (1, 64, 300):
        given = torch.randn(count, 48).bfloat16()
        found = torch.ops.mkldnn._linear_pointwise(given, laid_out, bias, "none", [], "")
        exact = functional.linear(given.double(), weight.double(), bias.double())
        assert torch.allclose(found.double(), exact, rtol=2**-8, atol=1e-4)


def test_modules_keep_parameters_modules_and_hooks_in_these_attributes():
    """kernels/stand_in.py"""
    model = nn.Sequential(nn.Linear(2, 2))
    assert {"_parameters", "_modules"} <= set(vars(model))
    assert set(model._modules) == {"0"} and set(model[0]._parameters) == {"weight", "bias"}
    model[0]._parameters = {**model[0]._parameters, "weight": torch.zeros(2, 2)}  # and they are read from there
    assert torch.equal(model(torch.ones(1, 2)), model[0].bias.detach()[None])
    for register, where in (
        ("register_forward_hook", "_forward_hooks"),
        ("register_forward_pre_hook", "_forward_pre_hooks"),
        ("register_full_backward_hook", "_backward_hooks"),
        ("register_full_backward_pre_hook", "_backward_pre_hooks"),
    ):
        assert not vars(model)[where]
        getattr(model, register)(lambda *given: None)
        assert len(vars(model)[where]) == 1


def test_a_hook_for_all_modules_is_seen():
    """kernels/stand_in.py, has_any_global_hook"""
    assert not torch.nn.modules.module._has_any_global_hook()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *given: None)
    assert torch.nn.modules.module._has_any_global_hook()
    handle.remove()


def test_compiling_a_module_in_place_leaves_a_mark():
    """kernels/stand_in.py, runs_as_shipped"""
    module = nn.Linear(2, 2)
    assert vars(module).get("_compiled_call_impl") is None
    module.compile(backend="eager")
    assert vars(module)["_compiled_call_impl"] is not None


def test_the_wrapper_of_no_grad_is_from_contextlib_and_keeps_what_it_wraps():
    """kernels/stand_in.py, _is_shipped"""

    def plain() -> None: ...

    wrapped = torch.no_grad()(plain)
    assert wrapped.__globals__["__name__"] == "torch.utils._contextlib"
    assert wrapped.__wrapped__ is plain
