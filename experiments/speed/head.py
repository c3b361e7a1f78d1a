"""How fast are the LM head and its loss, beside torch's own function? `python experiments/speed/head.py`.

Each contestant runs in a process of its own, so that its peak memory is its own; the parent asks them for a step
(forward and backward) in turns. Weights are in fp32 and get gradients in fp32; in bf16 the products are in bf16, as
under autocast. Needs a torch that has `torch.nn.functional.linear_cross_entropy` (2.13).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from encdec_lightning.kernels.cross_entropy import linear_cross_entropy
from encdec_lightning.kernels.gradients import GradientMemory

WHO = ("ours", "torch in chunks", "torch")
SETTINGS = [
    (dtype, vocabulary, width) for vocabulary in (30522, 50257) for dtype in ("fp32", "bf16") for width in (384, 768)
]


def loss_of(who: str, hidden: Tensor, head: nn.Parameter, targets: Tensor, memory: GradientMemory) -> Tensor:
    if who == "ours":
        return linear_cross_entropy(hidden, head, None, targets, memory=memory)
    options = nn.LinearCrossEntropyOptions() if who == "torch in chunks" else None
    weight = head.to(hidden.dtype)
    if options is None:  # as autocast computes the loss
        return functional.cross_entropy(functional.linear(hidden, weight).float(), targets, reduction="sum")
    return functional.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def work(pipe: Connection, who: str, dtype: str, vocabulary: int, width: int, count: int, threads: int) -> None:
    """Take a step when asked, and say how long it took and how much memory above what was there it needed."""
    torch.set_num_threads(threads)
    made = torch.Generator().manual_seed(0)
    head = nn.Parameter(torch.randn(vocabulary, width, generator=made) / width**0.5)
    states = torch.randn(count, width, generator=made).to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    targets = torch.randint(vocabulary, (count,), generator=made)
    memory = GradientMemory()
    while pipe.recv():
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        started = time.perf_counter()
        hidden = states.detach().requires_grad_()
        loss = loss_of(who, hidden, head, targets, memory)
        loss.backward()
        seconds = time.perf_counter() - started
        peak = resident("VmHWM") - before
        assert head.grad is not None and hidden.grad is not None
        norms = [float(each.double().norm()) for each in (head.grad, hidden.grad)]
        del hidden, loss
        head.grad = None
        pipe.send({"seconds": seconds, "peak": peak, "norms": norms})
    pipe.close()


def measured(dtype: str, vocabulary: int, width: int, count: int, steps: int, threads: int) -> dict[str, dict]:
    processes = multiprocessing.get_context("spawn")
    pipes = {}
    for who in WHO:
        here, there = processes.Pipe()
        processes.Process(target=work, args=(there, who, dtype, vocabulary, width, count, threads), daemon=True).start()
        pipes[who] = here
    found: dict[str, list[dict]] = {who: [] for who in WHO}
    for step in range(steps + 1):
        for who, pipe in pipes.items():
            pipe.send(True)
            took = pipe.recv()
            if step:  # the first allocates what later ones use again
                found[who].append(took)
    for pipe in pipes.values():
        pipe.send(False)
    return {
        who: {
            "seconds": statistics.median(each["seconds"] for each in all_of),
            "peak": statistics.median(each["peak"] for each in all_of),
            "norms": all_of[0]["norms"],
        }
        for who, all_of in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each contestant")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("head.jsonl"))
    options = parser.parse_args()
    made = Table("dtype", "vocabulary", "width", *(f"{what}: {who}" for what in ("ms", "MiB") for who in WHO))
    done = [json.loads(line) for line in options.output.open(encoding="utf-8")] if options.output.exists() else []
    with options.output.open("a", encoding="utf-8") as lines:
        for dtype, vocabulary, width in SETTINGS:
            setting = {"dtype": dtype, "vocabulary": vocabulary, "width": width, "targets": options.targets}
            before = [each["found"] for each in done if setting.items() <= each.items()]
            if before:
                found = before[0]
            else:
                found = measured(dtype, vocabulary, width, options.targets, options.steps, options.threads)
                lines.write(json.dumps({**setting, "torch": torch.__version__, "found": found}) + "\n")
                lines.flush()
            times = (f"{1000 * found[who]['seconds']:.0f}" for who in WHO)
            made.add_row(
                dtype, str(vocabulary), str(width), *times, *(f"{found[who]['peak'] / 2**20:.0f}" for who in WHO)
            )
    Console(width=140).print(made)


if __name__ == "__main__":
    main()
