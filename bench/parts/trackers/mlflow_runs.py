"""MLflow: runs of an experiment on the server that MLFLOW_TRACKING_URI names, or where MLflow keeps
them by default."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping

import mlflow
from mlflow.entities import Metric, Param
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
from mlflow.tracking import MlflowClient

EXPERIMENT = "cast-bench"
"""Default name of the experiment; MLFLOW_EXPERIMENT_NAME overrides it."""
MAX_VALUE = 500
"""Longest parameter in characters that every store accepts."""
BATCH = 100
"""Largest number of parameters in one request."""
FIRST_RETRIES = 2
"""Retries of a request before a server has answered any."""


class MlflowRuns:
    """Runs of an MLflow experiment."""

    def __init__(self) -> None:
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        # Another run may create it at the same time.
        with _few_retries():
            self._experiment = mlflow.set_experiment(name).experiment_id
        self._runs: dict[str, str] = {}

    def start(
        self, artifact: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        named = {_name(key): value for key, value in tags.items()}
        run = self._client.create_run(self._experiment, run_name=name, tags=named).info.run_id
        self._runs[artifact] = run
        every = [Param(_name(key), value[:MAX_VALUE]) for key, value in params.items()]
        for first in range(0, len(every), BATCH):
            self._client.log_batch(run, params=every[first : first + BATCH])

    def curve(self, artifact: str, phase: str, step: int, figures: Mapping[str, float]) -> None:
        self._log(artifact, {f"{phase}/{name}": value for name, value in figures.items()}, step)

    def metrics(self, artifact: str, values: Mapping[str, float]) -> None:
        self._log(artifact, values, 0)

    def end(self, artifact: str, ok: bool) -> None:
        status = "FINISHED" if ok else "FAILED"
        self._client.set_terminated(self._runs.pop(artifact), status)

    def close(self) -> None:
        pass

    def _log(self, artifact: str, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        points = [Metric(_name(key), value, now, step) for key, value in values.items()]
        self._client.log_batch(self._runs[artifact], metrics=points)


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """Retry the first requests a few times only, because MLflow's default retries for minutes."""
    is_set = MLFLOW_HTTP_REQUEST_MAX_RETRIES.is_set()
    if not is_set:
        MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(FIRST_RETRIES)
    yield
    if not is_set:
        MLFLOW_HTTP_REQUEST_MAX_RETRIES.unset()


def _name(key: str) -> str:
    """Replace characters that MLflow rejects."""
    return re.sub(r"[^\w./ -]", "_", key)
