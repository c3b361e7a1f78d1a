"""Kill a run with SIGKILL at random moments of chosen phases, let it go on, compare it with one that was never killed.

`python experiments/kills/campaign.py FOLDER --cases 50 [--hardware hardware=cpu]` writes a line a case to
FOLDER/results.jsonl, and goes on there when it is started again. Each case is killed one to three times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tests")]

import tiny  # noqa: E402

from encdec_lightning.errors import UserError  # noqa: E402
from encdec_lightning.training.checkpoint import load_checkpoint  # noqa: E402

PHASES = ("starting", "training", "validating", "saving", "writing", "generating", "scoring", "exporting")
LATER = {
    "starting": 3.0,
    "training": 0.3,
    "validating": 0.1,
    "saving": 0.05,
    "writing": 0.01,
    "generating": 0.2,
    "scoring": 0.05,
    "exporting": 0.4,
}
"""Seconds after the start of a phase within which the kill falls."""
OPTIONS = (
    *("trainer.max_steps=12", "validate_every=4", "checkpoint_minutes=0.005", "task.validation_generate=8"),
    *("variant=bertshare", "model.dropout=0.1", "callbacks.phases._target_=phases.Phases"),
    "task.metrics=[rouge,phases.Scoring]",
)


def started(folder: Path, told: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """`encdec-train` in a process group of its own."""
    told.write_text("")
    environment = {**os.environ, "PHASES": str(told), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                   "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
                   "ENCDEC_LIGHTNING_CACHE": str(folder / "cache")}  # fmt: skip
    command = [sys.executable, "-m", "encdec_lightning.cli.train", *arguments]
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )


def killed(process: subprocess.Popen[bytes], told: Path, phase: str, count: int, later: float) -> bool:
    """Kill all processes `later` seconds after the phase has begun for the count-th time; False if it ended before."""
    while phase != "starting" and told.read_text().split().count(phase) < count:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    time.sleep(later)
    if process.poll() is not None:
        return False
    for _ in range(2):  # one may have begun meanwhile
        for each in processes_of(told):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
    process.wait()
    while processes_of(told):
        time.sleep(0.01)
    return True


def processes_of(told: Path) -> list[int]:
    """The processes of a run, its workers and ranks among them: those that tell what they do to this file."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"PHASES={told}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def contents(run: Path) -> dict[str, Any]:
    """What has to be equal: weights of the checkpoints and of the export, predictions, scores."""
    found: dict[str, Any] = {}
    for name in ("best", "last"):
        state = load_checkpoint(run / "checkpoints" / f"{name}.ckpt", "cpu")["state_dict"]
        digest = hashlib.sha256()
        for key in sorted(state):
            digest.update(key.encode() + state[key].contiguous().flatten().numpy().tobytes())
        found[name] = digest.hexdigest()
    for file in ("predictions/test.jsonl", "model/model.safetensors"):
        found[file] = hashlib.sha256((run / file).read_bytes()).hexdigest()
    metrics = json.loads((run / "metrics.json").read_text())
    found["metrics"] = {
        key: value for key, value in metrics.items() if key.startswith(("test/", "best/")) and "second" not in key
    }
    return found


def loads_wrong(run: Path) -> str | None:
    """Whether a checkpoint of a killed run is there and is none."""
    for file in (run / "checkpoints").glob("*.ckpt"):
        try:
            load_checkpoint(file, "cpu")
        except UserError as error:
            return str(error)
    return None


def written(folder: Path) -> tiny.Files:
    """The tiny checkpoints and rows, the same at every start of the campaign."""
    if not folder.exists():
        fresh = folder.with_suffix(".new")
        tiny.write_all(fresh)
        fresh.rename(folder)
    checkpoints = {family: str(folder / family) for family in ("bert", "roberta", "gpt2")}
    return tiny.Files(
        **checkpoints, **{name: str(folder / f"{name}.jsonl") for name in ("train", "validation", "test")}
    )


def case(folder: Path, number: int, seed: int, options: list[str], expected: dict[str, Any]) -> dict[str, Any]:
    """One run, killed and continued."""
    draw = random.Random(f"{seed} {number}")
    run, told = folder / f"case-{number}", folder / f"told-{number}.txt"
    kills: list[str] = []
    wrong: list[str] = []
    process = started(folder, told, *options, f"folder={run.name}")
    for _ in range(draw.randint(1, 3)):
        phase = PHASES[number % len(PHASES)] if not kills else draw.choice(PHASES)
        count = draw.randint(1, 6) if phase in ("training", "validating", "saving", "writing") else 1
        if killed(process, told, phase, count, draw.uniform(0, LATER[phase])):
            kills.append(f"{phase} {count}")
            damage = loads_wrong(run)
            wrong += [] if damage is None else [damage]
            again = [f"run={run.name}"] if (run / "config.yaml").exists() else [*options, f"folder={run.name}"]
            process = started(folder, told, *again)
    code = process.wait()
    found = contents(run) if code == 0 else {}
    differs = [key for key in expected if found.get(key) != expected[key]]
    return {"case": number, "kills": kills, "exit": code, "differs": differs, "loads_wrong": wrong}


def main() -> int:
    """Run the cases that are not done, and say how many were equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hardware", nargs="*", default=["hardware=cpu"], help="options such as hardware=ddp_cpu")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    files = written(folder / "tiny")
    options = [*files.overrides(*OPTIONS), *given.hardware]
    whole = folder / "whole"
    if not (whole / "model").exists():
        began = time.time()
        if started(folder, folder / "told.txt", *options, f"folder={whole.name}").wait() != 0:
            print((folder / "output.txt").read_text()[-3000:], file=sys.stderr)
            return 1
        print(f"the run that is never killed: {time.time() - began:.1f} s", flush=True)
    expected = contents(whole)
    done = {json.loads(line)["case"] for line in results.read_text().splitlines()} if results.exists() else set()
    for number in range(given.cases):
        if number not in done:
            result = case(folder, number, given.seed, options, expected)
            with results.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(result, flush=True)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    kills = sum(len(each["kills"]) for each in lines)
    equal = sum(not each["differs"] and each["exit"] == 0 and not each["loads_wrong"] for each in lines)
    print(f"{len(lines)} cases, {kills} kills, {equal} ended equal to the bit")
    return 0 if equal == len(lines) else 1


if __name__ == "__main__":
    sys.exit(main())
