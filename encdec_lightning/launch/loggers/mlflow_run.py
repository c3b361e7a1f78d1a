"""The mlflow run of a training: one for all its starts, in a database of the run's folder unless a server is given."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from encdec_lightning.errors import UserError, reason
from encdec_lightning.launch.loggers.journal import Journal, Row

DATABASES: set[str] = set()
"""Those in runs' folders that loggers of this process have."""
RUN = "encdec_lightning.run"
"""The tag by which a start finds the mlflow run of those before."""


class MlflowRun(MLFlowLogger):
    """Lightning's logger, with one mlflow run for all starts of a training.

    What mlflow has is written down in `mlflow.jsonl` as well, so that steps which a later start does again are not
    logged twice. A server that fails while a run is working does not end it: mlflow gets nothing more in that start.

    Args:
        experiment_name: mlflow's word for what holds the runs.
        run_name: what the run is called; None: `name`.
        tracking_uri: of a server or a database; None: $MLFLOW_TRACKING_URI, else `mlflow.db` in `save_dir`.
        tags: {what: value} by which runs are found.
        save_dir: the folder of the database and the artifacts.
        run_id: of an mlflow run to go on with; None: that of `id`.
        name: what the run is called.
        id: of the run.
        group: of runs that belong together.
        facts: {what: value}, a tag each where `tags` has none of that name.
        **arguments: further ones of Lightning's logger.
    """

    def __init__(
        self,
        experiment_name: str = "encdec_lightning",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        tags: dict[str, Any] | None = None,
        save_dir: str | os.PathLike[str] = ".",
        run_id: str | None = None,
        name: str | None = None,
        id: str | None = None,  # noqa: A002
        group: str | None = None,
        facts: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        folder = Path(save_dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        known = {**(facts or {}), **({"group": group} if group else {}), **({RUN: id} if id else {}), **(tags or {})}
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if tracking_uri is None and uri in DATABASES:  # mlflow puts there what another logger of this process has
            uri = None
        if uri is None:
            arguments.setdefault("artifact_location", (folder / "mlflow").as_uri())
            DATABASES.add(f"sqlite:///{folder / 'mlflow.db'}")
        super().__init__(
            experiment_name=experiment_name,
            run_name=run_name or name,
            tracking_uri=uri or f"sqlite:///{folder / 'mlflow.db'}",
            tags=known,
            save_dir=str(folder),
            run_id=run_id,
            **arguments,
        )
        self._continued = False
        self._journal = Journal(folder / "mlflow.jsonl")
        self._before: dict[int, Row] | None = None
        """What earlier starts have logged, once it was read."""
        self._given_up = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The client of mlflow, its run found or made when it is first asked for. Raises `UserError` without one."""
        if self._initialized:
            return self._mlflow_client
        try:
            if self._run_id is None:
                self._run_id = self._found()
            self._continued = self._run_id is not None
            return super().experiment
        except Exception as error:
            expected = f"mlflow begins no run there ({reason(error).rstrip('. ')})"
            raise UserError("logger.mlflow.tracking_uri", self._tracking_uri, expected) from error

    def _found(self) -> str | None:
        there = self._mlflow_client.get_experiment_by_name(self._experiment_name)
        if there is None or RUN not in (self.tags or {}):
            return None
        wanted = f"tags.`{RUN}` = '{(self.tags or {})[RUN]}'"
        runs = self._mlflow_client.search_runs([there.experiment_id], wanted, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Put options into the run's parameters, which mlflow takes once."""
        _ = self.experiment
        if not self._continued:
            self._try(lambda: super(MlflowRun, self).log_hyperparams(params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers of a step, without those that an earlier start has logged at it."""
        _ = self.experiment
        if self._before is None:
            self._before = self._journal.rows() if self._continued else {}
        at = step or 0
        new = {name: value for name, value in metrics.items() if name not in self._before.get(at, {})}
        if new and self._try(lambda: super(MlflowRun, self).log_metrics(new, step)):
            self._journal.add(at, new)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Tell mlflow how the training ended."""
        self._try(lambda: super(MlflowRun, self).finalize(status))

    def _try(self, do: Callable[[], object]) -> bool:
        """Whether a call that must not end a training succeeded; after a failure mlflow gets nothing more."""
        if self._given_up:
            return False
        try:
            do()
        except Exception as error:
            self._given_up = True
            told = f"mlflow fails ({reason(error).rstrip('. ')}): the run goes on without it."
            print(f"{told} logs/csv keeps what is logged.", file=sys.stderr)
            return False
        return True
