"""The trackers by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import NamedTuple

from bench.execution.trackers.contract import Tracker
from bench.system.packages import pip_install, require


class TrackerEntry(NamedTuple):
    target: str
    package: str
    """Name of the package to import."""


TRACKERS = {
    "mlflow": TrackerEntry("bench.execution.trackers.mlflow_runs:MlflowRuns", "mlflow"),
    "wandb": TrackerEntry("bench.execution.trackers.wandb_runs:WandbRuns", "wandb"),
}
"""Trackers by name, which is also the name of the extra that installs them."""


def require_packages(names: Iterable[str]) -> None:
    """
    Raises:
        UserError: one is not installed.
    """
    for name in names:
        require(TRACKERS[name].package, what=f"--log-to {name}", how=pip_install(name))


def make(name: str) -> Tracker:
    module, _, kind = TRACKERS[name].target.partition(":")
    tracker: Tracker = getattr(importlib.import_module(module), kind)()
    return tracker
