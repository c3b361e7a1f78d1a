"""Run a block of the miniature as a sweep: `python experiments/miniature/run.py summarization --data FOLDER`.

A block is one `encdec-train --multirun`, whose points lie in runs/miniature-<block>. The same command again skips what
is finished and goes on with what is not. `--print` shows the command instead. `encdec-report` makes the tables.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PRESETS = Path(__file__).parent / "presets"
ROWS = ("rnd2rnd", "bert2rnd", "rnd2bert", "bert2bert", "bertshare")
ROBERTA = ("robertashare", "roberta2gpt")
GPT = ("gpt", "rnd2gpt", "bert2gpt")


@dataclass(frozen=True)
class Block:
    """Options of a sweep; those with commas are its axes."""

    task: str
    options: tuple[str, ...]
    seeds: int = 3


def variants(*rows: str) -> str:
    """The axis of rows."""
    return f"variant={','.join(rows)}"


TUNED = (variants("rnd2rnd", "bertshare"), "training.learning_rate=2e-4,5e-4,1e-3")
DEPTHS = ("model.encoder_layers=2,[2,4]", "model.decoder_layers=${model.encoder_layers}")
BLOCKS = {
    "tune-summarization": Block("debsum", TUNED, 1),
    "tune-fusion": Block("wikifusion", TUNED, 1),
    "tune-translation": Block("debmt_de_en", TUNED, 1),
    "summarization": Block("debsum", (variants(*ROWS, *ROBERTA, *GPT),)),
    "fusion": Block("wikifusion", (variants(*ROWS, *ROBERTA, *GPT),)),
    "translation": Block("debmt_de_en", (variants(*ROWS, *GPT),), 2),
    "minilm": Block("debsum", (variants(*ROWS), "checkpoints=minilm", "model.dropout=0.0")),
    "less-data": Block("debsum", (variants("rnd2rnd", "bert2rnd", "bertshare"), "task.train_share=0.1,0.01")),
    "parts": Block("debsum", (variants("bertshare", "bert2bert"), "ablation=embeddings_only,layers_only")),
    "depth": Block("debsum", (variants("bertshare"), *DEPTHS)),
    "modern": Block("debsum", (variants("enc2lm", "lm2lm", "lmshare", "lm"),)),
}


def command(name: str, data: Path) -> list[str]:
    """The sweep's command line."""
    block = BLOCKS[name]
    rows = {part: data / block.task.split("_")[0] / f"{part}.jsonl.gz" for part in ("train", "validation", "test")}
    return [
        *(sys.executable, "-m", "encdec_lightning.cli.train", "--multirun", "--config-dir", str(PRESETS)),
        *("experiment=miniature", f"task={block.task}", f"name=miniature-{name}"),
        *(f"task.{part}={path}" for part, path in rows.items()),
        *(f"seed={','.join(map(str, range(1, block.seeds + 1)))}", *block.options),
    ]


def main() -> int:
    """The sweep's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("block", choices=BLOCKS, metavar="BLOCK", help=", ".join(BLOCKS))
    parser.add_argument("--data", type=Path, required=True, help="the folder of debsum, debmt and wikifusion")
    parser.add_argument("--print", action="store_true", help="show the command and do nothing")
    given = parser.parse_args()
    line = command(given.block, given.data.resolve())
    print(shlex.join(line), flush=True)
    return 0 if given.print else subprocess.run(line, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
