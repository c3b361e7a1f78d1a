"""Run a block of the miniature as a sweep: `python experiments/miniature/run.py summarization --data FOLDER`.

A block is one `encdec-train --multirun`, whose points lie in runs/miniature-<block>. The same command again skips what
is finished and goes on with what is not. What was found is kept in results/, by which findings.py tests the paper's
claims; points that are there, also from another machine, are left out, and the others become a sweep for each seed.
`--print` shows the commands instead. `encdec-report runs/miniature-<block>` makes tables and a page.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from results import RESULTS, Point, keep, point_of, read

from encdec_lightning.launch.loggers.labels import point_label

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


SHORT = ("trainer.max_steps=200", "task.test_examples=100")  # a search looks at the loss of the validations
TUNED = (variants("rnd2rnd", "bertshare"), "training.learning_rate=0.00075,0.0015,0.003", *SHORT)
DEPTHS = ("model.encoder_layers=2,[2,4]", "model.decoder_layers=${model.encoder_layers}")
VOCABULARY = "${kept:miniature/debsum_vocabulary}"
NEW_VOCABULARY = (f"model.encoder_vocabulary={VOCABULARY}", f"model.decoder_vocabulary={VOCABULARY}")
LONGER = "trainer.max_steps=900"  # fusion copies its source, which is learnt late
OF_MINILM = ("training.learning_rate=3e-4", "training.fresh_learning_rate=1e-3", "model.dropout=0.0")  # quickstart's
OFTEN = "validate_every=20"  # of few examples the best state comes early
NEW_ATTENTION = "model.cross_attention_init=pretrained"  # none has any: it starts at random, as in BERT's rows
COPIED_ATTENTION = "model.cross_attention_init=self_attention"
AS_COSTLY = "trainer.max_steps=708"  # a language model alone then takes the operations of 600 updates of LM2LM
MASKS_ALONE = "checkpoints.bert=${kept:miniature/bert_masks}"
BLOCKS = {
    "tune-summarization": Block("debsum", TUNED, 1),
    "tune-fusion": Block("wikifusion", TUNED, 1),
    "tune-translation": Block("debmt_en_de", TUNED, 1),
    "summarization": Block("debsum", (variants(*ROWS, *ROBERTA, *GPT),)),
    "fusion": Block("wikifusion", (variants(*ROWS, *ROBERTA, *GPT), LONGER)),
    "translation": Block("debmt_en_de", (variants(*ROWS, *GPT),), 2),
    "minilm": Block("debsum", (variants(*ROWS), "checkpoints=minilm", *OF_MINILM)),
    "less-data": Block("debsum", (variants("rnd2rnd", "bert2rnd", "bertshare"), "task.train_share=0.1,0.01", OFTEN)),
    "new-vocabulary": Block("debsum", (variants("bertshare"), *NEW_VOCABULARY)),
    "parts": Block("debsum", (variants("bertshare", "bert2bert"), "ablation=embeddings_only,layers_only")),
    "depth": Block("debsum", (variants("bertshare"), *DEPTHS)),
    "modern": Block("debsum", (variants("enc2lm", "lm2lm", "lmshare", "lm"), NEW_ATTENTION)),
    "equal-operations": Block("debsum", (variants("lm"), NEW_ATTENTION, AS_COSTLY)),
    "masks-alone": Block("debsum", (variants("bert2rnd", "rnd2bert", "bert2bert"), MASKS_ALONE)),
    "copied-attention": Block("debsum", (variants("bertshare", "lm2lm", "lmshare"), COPIED_ATTENTION)),
}


def command(name: str, data: Path, axes: dict[str, list[str]]) -> list[str]:
    """A sweep's command line."""
    setting = setting_of(name, data)
    swept = [f"{option}={','.join(values)}" for option, values in axes.items()]
    return [*setting[:3], "--multirun", *setting[3:], f"name=miniature-{name}", *swept, *BLOCKS[name].fixed]


def sweeps(name: str, seeds: int | None, kept: list[Point]) -> list[dict[str, list[str]]]:
    """{axis: values} of the sweeps that make the points of a block which are not kept; `seeds` is their number.

    Each has all values of the first axis and one of each other one, so that a seed is whole before the next begins.
    """
    axes = {option: AXIS.split(values) for option, _, values in (each.partition("=") for each in BLOCKS[name].axes)}
    axes["seed"] = [str(number) for number in range(1, (seeds or BLOCKS[name].seeds) + 1)]
    first, *others = axes
    found = []
    for chosen in itertools.product(*(axes[option] for option in reversed(others))):
        fixed = dict(zip(reversed(others), chosen, strict=True))
        missing = [value for value in axes[first] if _point(axes, {**fixed, first: value}) not in kept]
        if missing:
            found.append({first: missing, **{option: [fixed[option]] for option in others}})
    return found


def _point(axes: dict[str, list[str]], chosen: dict[str, str]) -> Point:
    """What results.py calls a point; `chosen` has a value of each axis, or of some."""
    return point_of(point_label([f"{option}={chosen[option]}" for option in axes if option in chosen], ()))


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
    parser.add_argument("--print", action="store_true", help="show the commands and do nothing")
    given = parser.parse_args()
    code = 0
    for axes in sweeps(given.block, given.seeds, [each.point for each in read(given.block)]):
        line = command(given.block, given.data.resolve(), axes)
        print(shlex.join(line), flush=True)
        if given.print:
            continue
        code = max(code, subprocess.run(line, check=False).returncode)
        single = _point(axes, {option: values[0] for option, values in axes.items() if len(values) == 1})
        folder = Path("runs") / f"miniature-{given.block}"
        kept = keep(given.block, folder, drop_weights=given.drop_weights, single=single)
        print(f"{len(kept)} runs of {given.block} are in {RESULTS.name}/", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
