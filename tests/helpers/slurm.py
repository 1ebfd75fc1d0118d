"""A stand-in for a Slurm cluster: the tasks of an array run here, each as `sbatch` starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOB = "7"


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put `bench` and `scontrol` on the path. Returns the file in which the second writes down what is asked of it."""
    tools, requests = folder / "bin", folder / "requests"
    tools.mkdir()
    (tools / "bench").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bench "$@"\n')
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> "{requests}"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return requests


def start(script: Path, task: int, tasks: int) -> subprocess.Popen[str]:
    """A task of the script's array."""
    variables = {"SLURM_ARRAY_JOB_ID": JOB}
    for name, value in {"ID": task, "MIN": 1, "COUNT": tasks}.items():
        variables[f"SLURM_ARRAY_TASK_{name}"] = str(value)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(["bash", str(script)], env=os.environ | variables, **pipes)
