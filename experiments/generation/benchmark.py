"""Sequences a second of this package, of transformers' `generate` and of CTranslate2, in turns in one run.

`python experiments/generation/benchmark.py RESULTS.json --ctranslate2 PYTHON`, where PYTHON is an interpreter that has
ctranslate2, torch and transformers. Settings that RESULTS.json has of this kind of processor are not run again; the
table of all of its settings is written beside it. See README.md.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import setting
import torch
import transformers

from encdec_lightning import Generation
from encdec_lightning.generation.engine import Engine
from encdec_lightning.kernels.products import processor_has_bf16
from encdec_lightning.training.product_speeds import processor

RUNNERS = (
    *("ours int8, bf16", "ours int8, fp32", "ours bf16", "ours fp32", "generate bf16", "generate fp32"),
    *("ctranslate2 int8", "ctranslate2 fp32"),
)


class CTranslate2:
    """The process of `ctranslate.py`."""

    def __init__(self, python: str, size: str, texts: list[list[int]]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        folder, script = Path(self.folder.name), str(Path(__file__).with_name("ctranslate.py"))
        (folder / "sources.json").write_text(json.dumps(texts))
        (folder / "shape.json").write_text(json.dumps([setting.TARGET, setting.AT_ONCE]))
        subprocess.run([python, script, "convert", str(folder), size], check=True, capture_output=True)
        command = [python, script, "serve", str(folder), str(torch.get_num_threads())]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, kind: str, beams: int) -> float:
        """Of one run."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{kind} {beams}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


def runners(size: str, beams: int, texts: list[list[int]], other: CTranslate2 | None) -> dict[str, Callable[[], float]]:
    """{name: what measures one run}; weights are cast before."""
    model = setting.model(size)
    low = copy.deepcopy(model).bfloat16()
    options = Generation(num_beams=beams, min_length=setting.TARGET, max_length=setting.TARGET)
    tensors = [torch.tensor(text) for text in texts]

    def ours(dtype: torch.dtype | None, quantize: Literal["int8"] | None = None) -> Callable[[], float]:
        engine: Engine[int] = Engine(
            model, dataclasses.replace(options, quantize=quantize), setting.TARGET,
            targets=setting.AT_ONCE * beams, dtype=dtype, scores=False,
        )  # fmt: skip

        def run() -> None:
            found = dict(engine.stream(enumerate(tensors)))
            assert all(len(best.tokens) == setting.TARGET for (best,) in found.values())

        return lambda: setting.timed(run)

    @torch.inference_mode()
    def generate(which: transformers.PreTrainedModel) -> None:
        for at in range(0, len(texts), setting.AT_ONCE):
            group = setting.padded(texts[at : at + setting.AT_ONCE])
            found = which.generate(**group, **options.arguments(setting.TARGET))
            assert found.shape[1] == setting.TARGET + 1

    made: dict[str, Callable[[], float]] = {}
    if processor_has_bf16():  # without it products take ten times as long and more
        made |= {
            "ours int8, bf16": ours(torch.bfloat16, "int8"),
            "ours bf16": ours(torch.bfloat16),
            "generate bf16": lambda: setting.timed(lambda: generate(low)),
        }
    made |= {
        "ours int8, fp32": ours(None, "int8"),
        "ours fp32": ours(None),
        "generate fp32": lambda: setting.timed(lambda: generate(model)),
    }
    if other is not None:
        made |= {
            "ctranslate2 int8": lambda: other.seconds("int8", beams),
            "ctranslate2 fp32": lambda: other.seconds("float32", beams),
        }
    return made


def measure(size: str, beams: int, rounds: int, texts: list[list[int]], other: CTranslate2 | None) -> dict[str, float]:
    """{runner: median seconds}; each round runs every one, the first is not counted."""
    made = runners(size, beams, texts, other)
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for number in range(rounds + 1):
        for name, run in made.items():
            seconds[name].append(run())
        print(size, beams, number, {name: round(each[-1], 2) for name, each in seconds.items()}, flush=True)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}


def table(results: dict[str, dict[str, float]], count: int) -> str:
    """Sequences a second, and the ratios that the targets name."""
    lines = [f"| size, beams | {' | '.join(RUNNERS)} | to generate's best | to CTranslate2's best |",
             f"|---|{'---:|' * (len(RUNNERS) + 2)}"]  # fmt: skip
    for name, seconds in results.items():
        rates = {each: count / seconds[each] for each in RUNNERS if each in seconds}
        best = max(rate for each, rate in rates.items() if each.startswith("ours"))
        ratios = []
        for peer in ("generate", "ctranslate2"):
            peers = [rate for each, rate in rates.items() if each.startswith(peer)]
            ratios.append(f"{best / max(peers):.2f}" if peers else "")
        cells = [f"{rates[each]:.1f}" if each in rates else "" for each in RUNNERS]
        lines.append(f"| {name} | {' | '.join([*cells, *ratios])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, write results and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--ctranslate2", default=None, help="an interpreter that has it")
    parser.add_argument("--sizes", nargs="+", default=list(setting.SIZES))
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sources", type=int, default=setting.SOURCES)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    every = json.loads(options.results.read_text()) if options.results.exists() else {}
    kept: dict[str, dict[str, float]] = every.setdefault(processor(), {})
    texts = setting.sources(options.sources)
    for size in options.sizes:
        missing = [beams for beams in options.beams if f"{size}, {beams}" not in kept]
        other = CTranslate2(options.ctranslate2, size, texts) if options.ctranslate2 and missing else None
        for beams in missing:
            kept[f"{size}, {beams}"] = measure(size, beams, options.rounds, texts, other)
            options.results.write_text(json.dumps(every, indent=1) + "\n")
            options.results.with_suffix(".md").write_text(table(kept, options.sources))
        if other is not None:
            other.close()
    print(processor())
    print(table(kept, options.sources))


if __name__ == "__main__":
    main()
