"""A stand-in for a Slurm cluster: the tasks of an array run here, each as `sbatch` starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOB = "7"
SRUN = """#!/bin/bash
# Two tasks, as on two nodes. Both get SIGTERM, as from srun. The exit code is the highest.
children=()
for task in 0 1; do
  SLURM_PROCID=$task SLURM_NTASKS=2 SLURM_LOCALID=0 "$@" &
  children+=($!)
done
trap 'kill -TERM "${children[@]}"' TERM
highest=0
for child in "${children[@]}"; do
  wait "$child"; code=$?
  while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
  [ "$code" -gt "$highest" ] && highest=$code
done
exit "$highest"
"""


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put `bench` and `scontrol` on the path."""
    tools, requests = folder / "bin", folder / "requests"
    tools.mkdir()
    (tools / "bench").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bench "$@"\n')
    (tools / "scontrol").write_text(
        f'#!/bin/sh\n[ "$1" = show ] && echo localhost && exit\necho "$@" >> "{requests}"\n'
    )
    (tools / "srun").write_text(SRUN)
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return requests


def start(script: Path, task: int, tasks: int) -> subprocess.Popen[str]:
    """A task of the script's array."""
    variables = {"SLURM_ARRAY_JOB_ID": JOB, "SLURM_JOB_ID": str(os.getpid())}
    variables |= {"SLURM_JOB_NODELIST": "localhost", "SLURM_CPUS_PER_TASK": "1"}
    for name, value in {"ID": task, "MIN": 1, "COUNT": tasks}.items():
        variables[f"SLURM_ARRAY_TASK_{name}"] = str(value)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(["bash", str(script)], env=os.environ | variables, **pipes)
