"""The wandb run of a training: one for all its starts, on a server and in files, and of no harm to the training."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from encdec_lightning.errors import UserError, reason
from encdec_lightning.launch.loggers.journal import Journal, Row
from encdec_lightning.launch.loggers.labels import Table
from encdec_lightning.launch.loggers.wandb_files import files_of, last_steps, mend

STEP = "trainer/global_step"
"""The optimizer step, over which wandb draws everything; `_step`, by which it orders what it gets, is the same."""
OFFLINE = ("offline", "dryrun")
PATIENCE = 60.0
"""Seconds that wandb has at the end to send the rest; `logger.wandb.settings.finish_timeout` sets others."""
LONGEST_TAG = 64


class WandbRun(WandbLogger):
    """Lightning's logger, with one wandb run for all starts of a training, and each step in it once.

    wandb keeps what it got first and in order. So a step is handed over when a later one begins, or at the end of the
    run, whole; what a start takes again because the one before was killed is not handed over again. A journal,
    `wandb.jsonl`, has all that was logged: where a start finds that wandb has less, it gets the rest. Offline, each
    start has files of its own, which continue those of the ones before; `wandb sync` makes one run of them.

    Args:
        name: what the run is called.
        save_dir: the folder of the journal and of wandb's own files.
        offline: needs neither an account nor a network.
        id: of the wandb run.
        project: in which it is; None: that of `WANDB_PROJECT`, else encdec_lightning.
        group: of runs that belong together.
        tags: texts by which runs are found; None: those of `facts`.
        predictions: of so many examples texts are shown, after each validation that generates and after the test.
        facts: {what: value}, a tag each.
        **arguments: further ones of Lightning's logger and of `wandb.init`.
    """

    def __init__(
        self,
        name: str | None = None,
        save_dir: str | os.PathLike[str] = ".",
        offline: bool = False,
        id: str | None = None,  # noqa: A002
        project: str | None = None,
        group: str | None = None,
        tags: Sequence[str] | None = None,
        predictions: int = 20,
        facts: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        if predictions < 0:
            raise UserError("logger.wandb.predictions", predictions, "it must be at least 0")
        project = project or os.environ.get("WANDB_PROJECT") or "encdec_lightning"
        if tags is None and facts and not os.environ.get("WANDB_TAGS"):
            tags = [f"{what}:{value}"[:LONGEST_TAG] for what, value in facts.items()]
        given = {"id": id, "project": project, "group": group, "tags": tags, **arguments}
        super().__init__(name=name, save_dir=Path(save_dir), offline=offline, **given)
        self.predictions = predictions
        self._experiment: Any = None
        self._folder = Path(save_dir)
        self._journal = Journal(self._folder / "wandb.jsonl")
        self._before: dict[int, Row] = {}
        """What earlier starts have logged."""
        self._open: tuple[int, Row] | None = None
        """The step that is not handed over yet."""
        self._waiting: Row = {}
        """Tables for the next step that is logged."""
        self._next = 0
        """The least number that wandb may give a row: earlier starts have the ones before."""
        self._given_up = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of wandb, begun when it is first asked for. Raises `UserError` where wandb begins none."""
        if self._experiment is None:
            self._begin()
        return self._experiment

    def _begin(self) -> None:
        import wandb

        arguments = {name: value for name, value in self._wandb_init.items() if value is not None}
        arguments["settings"] = {"finish_timeout": PATIENCE, **(arguments.get("settings") or {})}
        offline = self._offline or wandb.setup().settings.mode in OFFLINE
        has = -1  # the last step that wandb has
        if offline:  # wandb cannot resume there, and says so
            arguments |= {"mode": "offline", "resume": None}
            for file in files_of(self._folder / "wandb", str(self._id)):
                mend(file)
                if file.exists():
                    count, step = last_steps(file, STEP)
                    self._next, has = max(self._next, count + 1), max(has, step)
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with _no_questions():
                run = wandb.init(**arguments)
        except Exception as error:
            expected = (
                f"wandb begins no run ({reason(error).rstrip('. ')}); `wandb login` or WANDB_API_KEY logs in, and"
                " logger.wandb.offline=true or WANDB_MODE=offline needs neither an account nor a network"
            )
            raise UserError("logger.wandb.offline", self._offline, expected) from error
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        self._experiment = run
        if not offline:
            has = int(dict(run.summary).get(STEP, -1))
        self._before = self._journal.rows()
        for step, row in self._before.items():
            if step > has:
                self._hand_over()
                self._open = step, dict(row)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Put options into wandb's config."""
        _ = self.experiment
        self._try(lambda: super(WandbRun, self).log_hyperparams(params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers of a step."""
        _ = self.experiment
        named = {
            f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name: metrics[name] for name in metrics
        }
        if step is None:
            self._try(lambda: self._experiment.log(named))
        else:
            self._log(step, named)

    def show(self, key: str, table: Table) -> None:
        """Log a table beside what is logged next, at the step of that."""
        self._waiting[key] = table

    @rank_zero_only
    def summarize(self, values: Mapping[str, Any]) -> None:
        """Put values of the whole run into wandb's summary."""
        run = self.experiment
        self._hand_over()  # its values, which are less exact, would come later
        self._try(lambda: run.summary.update(dict(values)))

    @rank_zero_only
    def end(self, exit_code: int, preempted: bool = False) -> None:
        """End what this start has of the wandb run. The last step of a preempted one is kept back: it may go on."""
        if self._experiment is None:
            return
        if not preempted:
            self._hand_over()
        run, self._experiment = self._experiment, None
        if preempted:
            self._try(run.mark_preempting)
        self._try(lambda: run.finish(exit_code))

    def _log(self, step: int, row: Row) -> None:
        known = self._before.get(step, {})
        new = {name: value for name, value in {**row, **self._waiting}.items() if name not in known}
        self._waiting = {}
        if not new:
            return
        self._journal.add(step, new)
        if self._open is not None and step == self._open[0]:
            self._open[1].update(new)
        elif self._open is not None and step < self._open[0]:
            self._send(step, new)
        else:
            self._hand_over()
            self._open = step, new

    def _hand_over(self) -> None:
        if self._open is not None:
            (step, row), self._open = self._open, None
            self._send(step, row)

    def _send(self, step: int, row: Row) -> None:
        self._try(lambda: self._sent(step, row))

    def _sent(self, step: int, row: Row) -> None:
        import wandb

        run, values = self._experiment, {STEP: step, **row}
        for name, value in row.items():
            if isinstance(value, Table):
                values[name] = wandb.Table(columns=list(value.columns), data=[list(each) for each in value.data])
        number = max(step, self._next)
        late = run.step > number  # something else has logged, or this comes late: wandb would drop it
        run.log(values, step=None if late else number, commit=True)

    def _try(self, do: Callable[[], object]) -> None:
        """Call what must not end a training; after a failure wandb gets nothing more in this start."""
        if self._given_up:
            return
        try:
            do()
        except Exception as error:
            self._given_up = True
            print(
                f"wandb fails ({reason(error)}): the run goes on without it. {self._journal.path} keeps what is logged,"
                " and wandb gets it when the run is continued.",
                file=sys.stderr,
            )


@contextmanager
def _no_questions() -> Iterator[None]:
    """Let wandb ask for no login, as it does where it sees a terminal: nobody may be there to answer."""
    before = sys.stdin
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before
