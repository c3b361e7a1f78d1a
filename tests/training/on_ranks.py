"""Fits of tiny models, on this process alone or, started by `on_ranks`, on several ranks over gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import tiny
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from encdec_lightning import Generation, Loading, Seq2SeqDataModule, Seq2SeqModule, Task, Tokenizers, Training, compose
from encdec_lightning.training import arrange
from encdec_lightning.training.callbacks.random_state import RandomState
from encdec_lightning.training.checkpoint_io import DurableCheckpointIO
from encdec_lightning.training.fsdp import whole_tensor
from encdec_lightning.training.options import Lora

WEIGHTS = ("tied", "tied_embeddings", "untied")
ADAPTED: dict[str, dict[str, Any]] = {
    "gate": {"decoder": "llama", "cross_attention_gate": "zero"},
    "tied": {"encoder": "llama", "decoder": "llama", "weights": "tied", "encoder_bidirectional": True},
    "after": {"decoder": "gptj", "cross_attention_gate": "zero"},
    "merged": {"encoder": "narrow", "decoder": "gemma2", "cross_attention_kind": "merged"},
}
"""Pairs whose decoder is given cross-attention, by name: the arguments of `compose`, checkpoints by the folder's name;
the encoder is the bert where none is named."""


@dataclass(frozen=True)
class Case:
    """One fit and what follows it."""

    strategy: str = "auto"
    weights: str = "tied"
    precision: str = "64-true"
    steps: int = 3
    checkpointed: bool = False
    """With gradient checkpointing."""
    compiled: bool = False
    """With layers compiled, as far as to operators; inductor takes minutes."""
    resume: str | None = None
    """The file in the folder to go on from."""
    family: str = "bert"
    clip: float | None = 1.0
    rate: float = 3e-3
    freeze: str | None = None
    pair: str = ""
    """One of `ADAPTED`; none: two of the family."""
    rank: int | None = None
    """Of LoRA."""
    scores: bool = True
    """With validation and test."""

    @property
    def name(self) -> str:
        """A file's."""
        told = {**asdict(self), "resume": self.resume and Path(self.resume).stem[:60]}
        return "-".join(str(each) for each in told.values())

    @property
    def file(self) -> str:
        """Of its checkpoint at the end."""
        return f"{self.name}.ckpt"


class FirstStep(lightning.Callback):
    """The loss and the gradients of the first step, over all ranks."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.gradients: dict[str, Tensor] = {}
        self.norms: list[float] = []
        self._step = 0

    def on_train_start(self, trainer, module) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        if not self.norms:
            self.loss += float(trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean"))
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.norms.append(float(module._finite.norm))

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        if not self.gradients:
            trained = [(name, each) for name, each in module.model.named_parameters() if each.requires_grad]
            self.gradients = {name: whole_tensor(each.grad).clone() for name, each in trained}


def make_adapted(folder: Path) -> None:
    """The checkpoints of `ADAPTED`, in a folder."""
    for family in {named[role] for named in ADAPTED.values() for role in ("encoder", "decoder") if role in named}:
        if family == "narrow":
            tiny.checkpoint(folder / family, "bert", width=tiny.WIDTH // 2)
        else:
            tiny.family_checkpoint(folder / family, family)


def fit(files: tiny.Files, case: Case, folder: Path, devices: int = 1) -> dict[str, Any]:
    """All there is to compare: losses, weights, scores, texts; of a checkpoint in `folder` of the fit's name."""
    checkpoint = getattr(files, case.family)
    arrange.BACKEND = "aot_eager"
    torch._dynamo.reset()  # layers of all fits would share the graphs that dynamo keeps for one function, 8 of them
    counters.clear()
    pair = {"encoder": checkpoint, "decoder": checkpoint, "weights": case.weights}
    if case.pair:
        named = ADAPTED[case.pair]
        found = {role: str(folder / named[role]) for role in ("encoder", "decoder") if role in named}
        pair |= {"weights": "untied", **named, **found}
    tokenizers = Tokenizers.from_pretrained(pair["encoder"], pair["decoder"])
    task = Task(train=files.train, validation=files.validation, test=files.test, source="document", target="summary",
                id="key", max_source_length=40, max_target_length=12, validation_generate=5)  # fmt: skip
    torch.manual_seed(0)
    model = compose(**pair, dropout=0.0, tokenizers=tokenizers)
    training = Training(learning_rate=case.rate, warmup_steps=1, schedule="constant", weight_decay=0.01,
                        gradient_checkpointing=case.checkpointed, compile=case.compiled, freeze=case.freeze,
                        lora=Lora(rank=case.rank))  # fmt: skip
    module = Seq2SeqModule(model, tokenizers, task, training, Generation(max_length=8, num_beams=2))
    data = Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=400, update_examples=64))
    first = FirstStep()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=devices, strategy=case.strategy, precision=case.precision, max_steps=case.steps,
        gradient_clip_val=case.clip, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False, callbacks=[first, RandomState()],
        plugins=[DurableCheckpointIO()], num_sanity_val_steps=0, limit_val_batches=1.0 if case.scores else 0,
    )  # fmt: skip
    resume = None if case.resume is None else folder / case.resume
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / case.file)
    validated = {name: float(value) for name, value in trainer.callback_metrics.items() if "second" not in name}
    found = {"loss": first.loss, "gradients": first.gradients, "norms": first.norms, "validated": validated}
    found["weights"] = {name: whole_tensor(each.detach()).clone() for name, each in module.model.named_parameters()}
    found["graphs"] = counters["stats"]["unique_graphs"]
    if case.scores:
        trainer.test(module, data, verbose=False)
    found["tested"] = {name: each.value for name, each in module.scores.items()}
    found["texts"] = [asdict(each) for each in module.predictions]
    return found


def on_ranks(files: tiny.Files, cases: list[Case], folder: Path, count: int = 2) -> list[dict[str, Any]]:
    """What rank 0 of some real processes finds in each case.

    The processes start anew, twice at most, where one ends by a signal: in one of eight runs of test_sharded.py the C
    library found a damaged heap in a rank ("malloc(): unaligned tcache chunk"), whose cause is not known; each says
    where it was. So they do where another process has taken the port meanwhile.
    """
    torch.save({"files": asdict(files), "cases": [asdict(case) for case in cases]}, folder / "cases.pt")
    for _ in range(3):
        codes, said = _started(folder, count)
        if min(codes) >= 0 and "EADDRINUSE" not in "".join(said):
            break
        print("\n".join(said), file=sys.stderr)
    assert codes == [0] * count, "\n".join(said)
    return [torch.load(folder / f"{case.name}.pt", weights_only=True) for case in cases]


def _started(folder: Path, count: int) -> tuple[list[int], list[str]]:
    """The exit codes of so many ranks, and what they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
              "LOCAL_WORLD_SIZE": str(count),
              "TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": "0", "OMP_NUM_THREADS": "1",
              "PYTHONFAULTHANDLER": "1"}  # fmt: skip
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path},
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        said = [rank.communicate(timeout=900)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [rank.returncode for rank in ranks], said


def _main(folder: Path) -> None:
    warnings.filterwarnings("error", message=".*DTensor.*")
    given = torch.load(folder / "cases.pt", weights_only=True)
    files = tiny.Files(**given["files"])
    for case in (Case(**each) for each in given["cases"]):
        found = fit(files, case, folder, devices=int(os.environ["WORLD_SIZE"]))
        if os.environ["RANK"] == "0":
            torch.save(found, folder / f"{case.name}.pt")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
