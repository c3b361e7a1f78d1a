"""Fully sharded training (FSDP2): a rank holds a part of each weight, of its gradient and of its optimizer state."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import default_pg_timeout
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from encdec_lightning.composition.assembly import rebuild
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.lora import adapt_alike
from encdec_lightning.errors import UserError
from encdec_lightning.training.checkpoint import read_file
from encdec_lightning.training.options import FSDP, FSDP_IN_PIECES
from encdec_lightning.training.pieces import drop_unused_pieces, write_pieces


class FullyShardedStrategy(ModelParallelStrategy):
    """A strategy of Lightning's Trainer that shards a module over all ranks of all nodes.

    The module's `configure_model` calls `shard`. Each pass gathers a group of layers' weights when it needs them, and
    lets go of them after; gradients are the ranks' mean, as DDP's are. Mixed precision is autocast's, also as with DDP:
    weights and gradients travel in their own precision.

    A checkpoint is the file that one process would write, gathered on rank 0: any strategy, with any number of ranks,
    goes on from it. With `checkpoints_in_pieces` each rank writes what it holds, nothing is gathered, and whoever reads
    the checkpoint puts the pieces together; see pieces.py.
    """

    def __init__(
        self,
        checkpoints_in_pieces: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(1, 1, False, process_group_backend, timeout)
        self._in_pieces = checkpoints_in_pieces

    def setup_environment(self) -> None:
        """Shard over all ranks there are."""
        self._data_parallel_size: Literal["auto"] | int = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning restores the optimizer, by `load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of the weights; what is one tensor there is one."""
        assert self.lightning_module is not None
        return self._saved(self.lightning_module.state_dict(keep_vars=True))

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """What a checkpoint holds of an optimizer, numbered as an optimizer of whole weights does."""
        own = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return self._saved(own.state_dict())

    def _saved(self, values: dict[str, Any]) -> dict[str, Any]:
        """Values with tensors that are whole on rank 0, and nowhere else; or as they are, to be saved in pieces."""
        if self._in_pieces:
            return values
        whole: dict[str, Any] = _gathered(values, self.is_global_zero, {})
        return whole if self.is_global_zero else {}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Rank 0 writes the file, after all ranks their pieces if there are to be some."""
        if self._in_pieces:
            write_pieces(checkpoint, Path(filepath))
        ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)
        if self._in_pieces and self.is_global_zero:
            drop_unused_pieces(Path(filepath).parent, partial(read_file, map_location="meta"))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Each rank reads the file."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each rank takes its part of the weights."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict(keep_vars=True)
        given = checkpoint["state_dict"]
        parts = {name: _like(own[name], value) if name in own else value for name, value in given.items()}
        self.lightning_module.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each rank takes its part of the optimizer's state; raises `UserError` for one that cannot be shared out."""
        parts = [
            _parts_of_state(optimizer, state)
            for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True)
        ]
        ParallelStrategy.load_optimizer_state_dict(self, {"optimizer_states": parts})


STRATEGIES: dict[str, dict[str, Any]] = {FSDP: {}, FSDP_IN_PIECES: {"checkpoints_in_pieces": True}}
"""Arguments by the name that `trainer.strategy` gives; Lightning knows them once this file is imported."""
for _name, _arguments in STRATEGIES.items():
    StrategyRegistry.register(_name, FullyShardedStrategy, description=FSDP, **_arguments)


def shard(model: ComposedModel, mesh: DeviceMesh | None) -> None:
    """Share a model out over the ranks of a mesh's dimension `data_parallel`; nothing without a mesh, or done before.

    A layer is gathered alone, and with the layers whose weights it shares: the encoder's and the decoder's of one
    number. All that lies outside of layers, embeddings and LM head among it, is gathered for the whole pass.
    """
    if mesh is None or is_sharded(model):
        return
    ranks = mesh["data_parallel"]
    for group in layer_groups(model):
        fully_shard(group, mesh=ranks, reshard_after_forward=True)
    fully_shard(model, mesh=ranks, reshard_after_forward=True)


def layer_groups(model: ComposedModel) -> list[list[nn.Module]]:
    """The layers that can be gathered on their own, those together that share parameters."""
    layers = {name: module for name, module in model.named_modules() if _is_layer(name)}
    homes: dict[int, set[str]] = {}  # of each parameter: the layers that have it, "" for the rest of the model
    for name, parameter in model.named_parameters(remove_duplicate=False):
        home = next((layer for layer in layers if name.startswith(f"{layer}.")), "")
        homes.setdefault(id(parameter), set()).add(home)
    groups: list[set[str]] = []
    for names in homes.values():
        groups, joined = [each for each in groups if not each & names], [each for each in groups if each & names]
        groups.append(names.union(*joined))
    return [[layers[name] for name in layers if name in group] for group in groups if "" not in group]


def _is_layer(name: str) -> bool:
    """Whether a module's name ends with the first number in it."""
    parts = name.split(".")
    return parts[-1].isdecimal() and not any(part.isdecimal() for part in parts[:-1])


def is_sharded(model: nn.Module) -> bool:
    """Whether some of a model's weights are in pieces on several ranks."""
    return any(isinstance(parameter.data, DTensor) for parameter in model.parameters())


def whole(model: ComposedModel) -> ComposedModel:
    """The model, or one with the same weights that is not in pieces: all ranks must call this together.

    What is one parameter is one. Buffers are the model's own.
    """
    if not is_sharded(model):
        return model
    with torch.device("meta"):
        copy: ComposedModel = rebuild(model.config.to_dict())
    adapt_alike(copy, model)
    copy.generation_config = model.generation_config
    made: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in made:
            made[id(parameter)] = nn.Parameter(whole_tensor(parameter.detach()), requires_grad=False)
        _put(copy, name, made[id(parameter)])
    for name, buffer in model.named_buffers(remove_duplicate=False):
        _put(copy, name, buffer)
    copy.train(model.training)
    return copy


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor, gathered from its pieces where it is in pieces: all ranks must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _put(model: nn.Module, name: str, value: Tensor) -> None:
    owner, _, own = name.rpartition(".")
    setattr(model.get_submodule(owner), own, value)


def _gathered(value: Any, keep: bool, made: dict[int, Tensor]) -> Any:
    """Nested values with whole tensors in the processor's memory, if they are kept; `made`: by id, those of before."""
    if isinstance(value, dict):
        return {name: _gathered(each, keep, made) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_gathered(each, keep, made) for each in value)
    if not isinstance(value, Tensor):
        return value
    if id(value) not in made:
        tensor = whole_tensor(value.detach())
        made[id(value)] = tensor.cpu() if keep else tensor.new_empty(0)
    return made[id(value)]


def _parts_of_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's whole state, of which this rank keeps its parts."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    numbers = [each for group in state["param_groups"] for each in group["params"]]
    of = dict(zip(numbers, parameters, strict=True))
    parts = {
        number: {name: _part(of[number], name, value) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": parts}


def _part(parameter: nn.Parameter, name: str, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.shape != parameter.shape:
        expected = f"its {name} has another shape than the weight, so that fsdp cannot share it out; use hardware=ddp"
        raise UserError("optimizer", "state", expected)
    return _like(parameter, value)


def _like(own: Tensor, value: Tensor) -> Tensor:
    """This rank's part of a whole tensor, in pieces as `own` is."""
    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)
