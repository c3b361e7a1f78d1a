"""Run a block of the miniature as a sweep: `python experiments/miniature/run.py summarization --data FOLDER`.

A block is one `encdec-train --multirun`, whose points lie in runs/miniature-<block>. The same command again skips what
is finished and goes on with what is not. `--print` shows the command instead. What was found is kept in results/, by
which findings.py tests the paper's claims; `encdec-report runs/miniature-<block>` makes tables and a page.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from results import RESULTS, keep

AXIS = re.compile(r",(?![^\[]*\])")
PRESETS = Path(__file__).parent / "presets"
ROWS = ("rnd2rnd", "bert2rnd", "rnd2bert", "bert2bert", "bertshare")
ROBERTA = ("robertashare", "roberta2gpt")
GPT = ("gpt", "rnd2gpt", "bert2gpt")


@dataclass(frozen=True)
class Block:
    """Options of a sweep."""

    task: str
    options: tuple[str, ...]
    seeds: int = 3

    @property
    def axes(self) -> list[str]:
        """Those that have several values, which stand between commas outside brackets."""
        return [each for each in self.options if AXIS.search(each)]

    @property
    def fixed(self) -> list[str]:
        """Those that all points have."""
        return [each for each in self.options if not AXIS.search(each)]


def variants(*rows: str) -> str:
    """The axis of rows."""
    return f"variant={','.join(rows)}"


TUNED = (variants("rnd2rnd", "bertshare"), "training.learning_rate=2e-4,5e-4,1e-3")
DEPTHS = ("model.encoder_layers=2,[2,4]", "model.decoder_layers=${model.encoder_layers}")
VOCABULARY = "${kept:miniature/debsum_vocabulary}"
NEW_VOCABULARY = (f"model.encoder_vocabulary={VOCABULARY}", f"model.decoder_vocabulary={VOCABULARY}")
BLOCKS = {
    "tune-summarization": Block("debsum", TUNED, 1),
    "tune-fusion": Block("wikifusion", TUNED, 1),
    "tune-translation": Block("debmt_de_en", TUNED, 1),
    "summarization": Block("debsum", (variants(*ROWS, *ROBERTA, *GPT),)),
    "fusion": Block("wikifusion", (variants(*ROWS, *ROBERTA, *GPT),)),
    "translation": Block("debmt_de_en", (variants(*ROWS, *GPT),), 2),
    "minilm": Block("debsum", (variants(*ROWS), "checkpoints=minilm", "model.dropout=0.0")),
    "less-data": Block("debsum", (variants("rnd2rnd", "bert2rnd", "bertshare"), "task.train_share=0.1,0.01")),
    "new-vocabulary": Block("debsum", (variants("bertshare"), *NEW_VOCABULARY)),
    "parts": Block("debsum", (variants("bertshare", "bert2bert"), "ablation=embeddings_only,layers_only")),
    "depth": Block("debsum", (variants("bertshare"), *DEPTHS)),
    "modern": Block("debsum", (variants("enc2lm", "lm2lm", "lmshare", "lm"),)),
}


def command(name: str, data: Path, seeds: int | None = None) -> list[str]:
    """The sweep's command line; `seeds` is their number, the block's own by default."""
    numbers = ",".join(map(str, range(1, (seeds or BLOCKS[name].seeds) + 1)))
    setting, options = setting_of(name, data), BLOCKS[name].options
    return [*setting[:3], "--multirun", *setting[3:], f"name=miniature-{name}", f"seed={numbers}", *options]


def setting_of(name: str, data: Path) -> list[str]:
    """A command line of what all points of a block have in common."""
    task = BLOCKS[name].task
    rows = {part: data / task.split("_")[0] / f"{part}.jsonl.gz" for part in ("train", "validation", "test")}
    return [
        *(sys.executable, "-m", "encdec_lightning.cli.train", "--config-dir", str(PRESETS)),
        *("experiment=miniature", f"task={task}", *(f"task.{part}={path}" for part, path in rows.items())),
    ]


def main() -> int:
    """The sweep's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("block", choices=BLOCKS, metavar="BLOCK", help=", ".join(BLOCKS))
    parser.add_argument("--data", type=Path, required=True, help="the folder of debsum, debmt and wikifusion")
    parser.add_argument("--seeds", type=int, help="how many, instead of the block's own number")
    parser.add_argument("--drop-weights", action="store_true", help="remove checkpoints of runs that have finished")
    parser.add_argument("--print", action="store_true", help="show the command and do nothing")
    given = parser.parse_args()
    line = command(given.block, given.data.resolve(), given.seeds)
    print(shlex.join(line), flush=True)
    if given.print:
        return 0
    code = subprocess.run(line, check=False).returncode
    kept = keep(given.block, Path("runs") / f"miniature-{given.block}", drop_weights=given.drop_weights)
    print(f"{len(kept)} runs of {given.block} are in {RESULTS.name}/")
    return code


if __name__ == "__main__":
    sys.exit(main())
