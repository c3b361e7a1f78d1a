"""A search over options in a job of one's own: its trials run there, on two ranks each, and end early where they may."""

from __future__ import annotations

import csv
import shlex
import sys
from pathlib import Path

import pytest
from test_slurm import cluster, options  # noqa: F401
from virtual_slurm import why_not

from encdec_lightning.run import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.xdist_group("slurm"),
]


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_search_prunes_in_a_job(pruner, cluster, options, in_tmp):  # noqa: F811
    command = [
        *(sys.executable, "-m", "encdec_lightning.cli.train", "--multirun"),
        *(each for each in options if not each.startswith("slurm.")),
        *("hparams_search=optuna", "training.learning_rate=0.01,1e-7", "search.sampler=random", "search.seed=1"),
        *("search.trials=2", "search.pruning_trials=1", f"search.pruner={pruner}", "validate_every=1"),
        *("trainer.max_steps=16", "callbacks.slow._target_=slow.Slow"),
    ]
    (in_tmp / "slow.py").write_text(
        "import time\nimport lightning\n\nclass Slow(lightning.Callback):\n"
        "    def on_train_batch_end(self, *_):\n        time.sleep(0.3)\n"
    )
    said = in_tmp / "said.txt"
    job = cluster.run(
        *("sbatch", "--parsable", "--ntasks=1", "--cpus-per-task=2", f"--output={said}"),
        f"--wrap={shlex.join(command)}",
    ).strip()
    cluster.wait(job, timeout=400)
    with Path("runs/run/study/trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["training.learning_rate"], row["state"]) for row in rows] == [
        ("0.01", "finished"),
        ("1e-07", "pruned"),
    ]
    assert "2 trials: 1 finished, 1 pruned" in said.read_text()
    good, bad = (Run(row["folder"]) for row in rows)
    assert (good.status()["state"], bad.status()["state"]) == ("finished", "pruned")
    assert bad.resumable() is not None
