"""Weights & Biases: runs of the project that WANDB_PROJECT names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import wandb

PROJECT = "cast-bench"
"""Default name of the project; WANDB_PROJECT overrides it."""


class WandbRuns:
    """Runs of a project of Weights & Biases."""

    def __init__(self) -> None:
        self._runs: dict[str, Any] = {}

    def start(
        self, artifact: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        self._runs[artifact] = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            config={**params, **tags},
            reinit="create_new",  # several are at work at a time
            settings=wandb.Settings(silent=True, console="off"),
        )

    def curve(self, artifact: str, phase: str, step: int, figures: Mapping[str, float]) -> None:
        axis = f"{phase}/step"
        run = self._runs[artifact]
        run.define_metric(f"{phase}/*", step_metric=axis)
        run.log({axis: step, **{f"{phase}/{name}": value for name, value in figures.items()}})

    def metrics(self, artifact: str, values: Mapping[str, float]) -> None:
        self._runs[artifact].log(dict(values))

    def end(self, artifact: str, ok: bool) -> None:
        self._runs.pop(artifact).finish(exit_code=int(not ok))

    def close(self) -> None:
        wandb.teardown()  # wait for the process of wandb
