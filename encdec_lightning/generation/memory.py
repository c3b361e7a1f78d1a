"""How many targets are under way: as many as the memory holds, and half as many where it runs out all the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from encdec_lightning.composition.architectures import depth, key_width
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.lora import merged
from encdec_lightning.errors import UserError, ran_out
from encdec_lightning.generation.generate import Streamer, streamer, working_dtype
from encdec_lightning.generation.options import Generation
from encdec_lightning.generation.search import Hypothesis
from encdec_lightning.generation.support import check_writes, longest_sequence, obstacle, target_limit
from encdec_lightning.kernels.onednn_linear import runs_in_onednn, weight_and_bias

MOST = {"cpu": 256, "cuda": 1024}  # targets under way, where the memory holds so many

Key = TypeVar("Key")


class ElasticStreamer(Generic[Key]):
    """`streamer` with as many targets under way as the memory holds; with half as many from where it runs out.

    Their number decides how fast it is, and which numbers are drawn for which source where `do_sample` is set.
    """

    def __init__(
        self,
        model: ComposedModel,
        generation: Generation,
        *,
        longest_source: int,
        max_target_length: int | None = None,
        most: int | None = None,
        generator: torch.Generator | None = None,
        scores: bool = True,
    ) -> None:
        """For sources of so many tokens or fewer, with `most` targets under way, and no more than `MOST` says.

        Raises `UserError` where the model does not allow targets as long as they may be.
        """
        check_writes(model)
        model = merged(model)
        longest = target_limit(model, generation, max_target_length, longest_source)
        device = model.device
        limit = MOST.get(device.type, MOST["cpu"])
        most = min(most or limit, limit)
        self.targets = targets_that_fit(model, generation, longest_source, longest, free_memory(device), most, scores)
        """Targets under way."""
        self._model, self._generation, self._max_target_length = model, generation, max_target_length
        self._generator, self._scores, self._longest_source = generator, scores, longest_source
        self._start: Streamer[Key] | None = None

    def __call__(self, sources: Sequence[tuple[Key, Tensor]]) -> Iterator[tuple[Key, list[Hypothesis]]]:
        """(key, its targets) for each (key, ids of a source), as they are done; each key is another one.

        Where memory runs out, what is done stays done. Raises `UserError` where it does not hold one source's targets.
        """
        done: set[Key] = set()
        least = self._generation.targets_per_source
        while True:
            try:
                self._start = self._start or self._streamer()
                for key, hypotheses in self._start([source for source in sources if source[0] not in done]):
                    done.add(key)
                    yield key, hypotheses
                return
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                if self.targets <= least:
                    expected = f"the memory of {self._model.device} does not hold the {least} targets of one source"
                    raise UserError("generation.num_beams", self._generation.num_beams, expected) from error
            self._start = None  # here the error and all that it held are gone
            self.targets = max(1, self.targets // 2 // least) * least
            torch.cuda.empty_cache()

    def _streamer(self) -> Streamer[Key]:
        return streamer(
            self._model, self._generation, longest_source=self._longest_source,
            max_target_length=self._max_target_length, targets=self.targets, generator=self._generator,
            scores=self._scores,
        )  # fmt: skip


def free_memory(device: torch.device) -> int:
    """Bytes that a process may still take, at most."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, of a fit
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    sizes = []
    with suppress(OSError, ValueError, IndexError):  # not on every system
        sizes.append(1024 * int(Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]))
    return min([*sizes, *(_left_of_group(folder) for folder in _groups())], default=4 << 30)


def _groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """The folders of the control groups, of a container or a Slurm job, that limit this process's memory."""
    path = Path()
    with suppress(OSError, IndexError):  # not on every system
        lines = own.read_text().splitlines()
        path = Path(next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), ""))
    inside = [] if ".." in path.parts else [root / each for each in (path, *path.parents)]
    return [folder for folder in {root, *inside} if _limit(folder) is not None]


def _left_of_group(folder: Path) -> int:
    """Bytes of a control group's limit that nobody in it has taken; what the page cache holds is free."""
    taken = 0
    with suppress(OSError, ValueError):
        taken = int((folder / "memory.current").read_text())
        found = re.search(r"^inactive_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
        taken -= int(found[1]) if found else 0
    return max(0, (_limit(folder) or 0) - taken)


def _limit(folder: Path) -> int | None:
    with suppress(OSError, ValueError):  # "max" where there is none
        return int((folder / "memory.max").read_text())
    return None


def targets_that_fit(
    model: ComposedModel, generation: Generation, source: int, target: int, free: int, most: int, scores: bool = True
) -> int:
    """How many targets half of `free` bytes hold, for lengths of at most these, `most` at most, a source's at least.

    Counted are the engine's own copies of weights and, for each place of a source, keys and values of all layers, the
    mask of its beams and two rows of logits a beam. On CPU the source's keys are there twice (`Reading`); transformers'
    own generate keeps them for each beam, and needs no copies, but with `scores` keeps the logits of all steps.
    """
    config, dtype = model.config.decoder, working_dtype(model) or model.dtype
    beams, slots = generation.targets_per_source, 1 + generation.targets_per_source * (target - 1)
    ours = obstacle(model, longest_sequence(model, target, source)) is None
    copies = 2 if model.device.type == "cpu" else 1
    columns = slots + source * (copies if ours else beams)
    numbers = 2 * depth(config) * key_width(config) * columns + beams * slots
    rows = 2 if ours or not scores else 2 + target
    place = dtype.itemsize * numbers + rows * 4 * beams * int(config.vocab_size)
    free -= copied_weights(model, dtype, generation.quantize is not None) if ours else 0
    return beams * max(1, min(most // beams, free // 2 // place))


def copied_weights(model: ComposedModel, dtype: torch.dtype, quantized: bool = False) -> int:
    """Bytes of the weights that an engine in this dtype holds beside the model's: those it casts, or lays out anew."""
    numbers: int = sum(each.numel() for each in model.parameters() if each.dtype != dtype)
    # the LM head's weight is among those that are laid out
    linear = {id(each.weight): each for each in model.modules() if weight_and_bias(each) is not None}
    laid_out: int = sum(each.weight.numel() for each in linear.values())
    if quantized:
        return numbers * dtype.itemsize + laid_out
    in_onednn = runs_in_onednn(torch.empty(1, dtype=dtype, device=model.device))
    return (numbers + (laid_out if in_onednn else 0)) * dtype.itemsize
