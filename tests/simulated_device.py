"""A device that is not the processor, without one: tensors that lie elsewhere, and hold right numbers.

torch lets a backend be written in Python (`privateuseone`). This one computes on the processor. The code under test
sees tensors of another device, so that it goes the way it goes on a GPU, and its results can be compared with the
processor's. As on a GPU, an operator that meets tensors of both places fails. What would make the processor wait for a
GPU is written down, and so is every copy to the device.

Importing this file makes the device known to torch, for good, and must come before the first backward pass: tests that
use it run in a process of their own.
"""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

KIND = "elsewhere"

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "unique_consecutive")
"""Operators of `aten` whose results the processor needs before it goes on."""
IN_LOW_PRECISION = ("linear", "mm", "bmm", "addmm", "baddbmm", "matmul")
"""What autocast computes in 16 bits on a GPU, as far as models here run it."""


class Module(backend_registration._DummyBackendModule):
    """What torch asks of `torch.privateuseone`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass


backend_registration._setup_privateuseone_for_python_backend(KIND, Module())
DEVICE = torch.device(KIND, 0)


class Elsewhere(Tensor):
    """A tensor on that device, whose numbers are in a tensor of the processor's."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype, layout=numbers.layout, device=DEVICE,
        )  # fmt: skip
        made.numbers = numbers
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["numbers"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], context: None, size: Any, stride: Any) -> Elsewhere:
        return Elsewhere(inner["numbers"])

    def __repr__(self, *args: Any, **kwargs: Any) -> str:
        return f"Elsewhere({self.numbers})"

    def tolist(self) -> Any:
        """A copy to the processor."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operator, args, kwargs or {}, None)


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **more: Any) -> Tensor:
    if torch.is_autocast_enabled(KIND):
        query, key, value = (each.to(torch.get_autocast_dtype(KIND)) for each in (query, key, value))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    return torch.ops.aten._scaled_dot_product_attention_math(query, key, value, attn_mask, **more)[0]


class _Functions(TorchFunctionMode):
    """What must not reach torch as it is.

    `torch.tensor` fills a tensor behind the back of every other mode: here it does so on the processor. The choice of a
    kernel for attention ends the process on this device: here it is the plain one.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and _is_here(kwargs.get("device")):
            return function(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        if function is functional.scaled_dot_product_attention and isinstance(args[0], Elsewhere):
            return _attention(*args, **kwargs)
        return function(*args, **kwargs)


class Watch(TorchDispatchMode):
    """Runs what is on the device, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        """All operators on the device."""
        self.waits: Counter[str] = Counter()
        """What the processor would wait for, by operator and line of code."""
        self.uploads: Counter[str] = Counter()
        """Copies of the processor's tensors to the device, by line of code."""
        self._functions = _Functions()
        self._alone = torch.autograd.set_multithreading_enabled(False)  # a thread of the device's would end the process

    def __enter__(self) -> Self:
        self._functions.__enter__()
        self._alone.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._alone.__exit__(*error)
        self._functions.__exit__(*error)

    def clear(self) -> None:
        """Count from zero."""
        for each in (self.operators, self.waits, self.uploads):
            each.clear()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operator, args, kwargs or {}, self)


def _is_here(device: Any) -> bool:
    return device is not None and torch.device(device).type == KIND


def _run(operator: Any, args: Any, kwargs: dict[str, Any], watch: Watch | None) -> Any:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    mine = [each for each in tensors if isinstance(each, Elsewhere)]
    name, asked = operator._schema.name.removeprefix("aten::"), kwargs.get("device")
    if not mine and not _is_here(asked):
        return operator(*args, **kwargs)
    goes = bool(mine) and asked is not None and not _is_here(asked)
    comes = not mine and bool(tensors)
    if name == "copy_":
        goes, comes = not isinstance(args[0], Elsewhere), not isinstance(args[1], Elsewhere) and args[1].ndim > 0
    elif mine and not goes and any(each.ndim for each in tensors if not isinstance(each, Elsewhere)):
        raise RuntimeError(f"{name}: tensors of the device and of the processor in {_line()}")
    if watch is not None:
        watch.operators[name] += 1
        chooses = name.startswith("index") and any(
            isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8) for each in tree_leaves(args[1:2])
        )
        if goes or name in WAITING or chooses:
            watch.waits[f"{name} in {_line()}"] += 1
        if comes:
            watch.uploads[_line()] += 1
    if _is_here(asked):
        kwargs = {**kwargs, "device": torch.device("cpu")}
    known = {id(each.numbers): each for each in mine}
    args, kwargs = tree_map(lambda each: each.numbers if isinstance(each, Elsewhere) else each, (args, kwargs))
    with torch.autocast("cpu", enabled=False):
        result = operator(*args, **kwargs)
    if goes and name != "copy_":
        return result

    def back(each: Any) -> Any:
        if not isinstance(each, Tensor):
            return each
        return known[id(each)] if id(each) in known else Elsewhere(each)

    return tree_map(back, result)


def _line() -> str:
    """Where this happens: in the package, else in what is not torch."""
    calls = traceback.extract_stack()[:-3]
    ours = [each for each in calls if "/encdec_lightning/" in each.filename]
    others = [each for each in calls if "/torch/" not in each.filename and Path(each.filename) != Path(__file__)]
    found = (ours or others)[-1]
    return f"{Path(found.filename).name}: {found.line}"


def _cast(operator: Any) -> Any:
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def run(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype(KIND)

        def low(each: Any) -> Any:
            fits = isinstance(each, Tensor) and each.is_floating_point() and each.dtype != torch.float64
            return each.to(dtype) if fits else each

        with torch._C._ExcludeDispatchKeyGuard(key):
            return operator(*tree_map(low, args), **tree_map(low, kwargs))

    return run


_library = torch.library.Library("aten", "IMPL")
_others = torch.library.Library("_", "IMPL")
_others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
for _name in IN_LOW_PRECISION:
    _library.impl(_name, _cast(getattr(torch.ops.aten, _name).default), "AutocastPrivateUse1")
