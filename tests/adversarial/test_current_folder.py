"""Files in the current folder that bear the names of modules: no process of a run executes them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import runs

NAMES = ("filelock", "random", "bench", "psutil", "torch", "methods", "pip", "sitecustomize")
TRAP = """
import os, sys
with open({marker!r}, "a") as file:
    print(os.getpid(), __name__, sys.argv, file=file)
raise SystemExit(f"{{__name__}} of the current folder was run")
"""


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "executed"


@pytest.fixture
def folder(tmp_path, marker):
    """The current folder, with a trap for each name."""
    here = tmp_path / "here"
    here.mkdir()
    for name in NAMES:
        (here / f"{name}.py").write_text(TRAP.format(marker=str(marker)))
    return here


@pytest.fixture
def variables(tmp_path, monkeypatch):
    """An environment whose PYTHONPATH has an empty entry, which stands for the current folder."""
    runs.own_cache(tmp_path, monkeypatch)
    return os.environ | {"PYTHONPATH": f"{Path(runs.__file__).parents[2]}{os.pathsep}{os.pathsep}"}


def bench(folder, variables, *arguments):
    command = [sys.executable, *arguments]
    pipes = {"capture_output": True, "text": True, "check": False}
    return subprocess.run(command, cwd=folder, env=variables, **pipes)


@pytest.mark.full
def test_a_run_and_a_training_of_two_ranks(folder, marker, variables, tmp_path):
    """Start the runner with -P, as the installed command does."""
    variables["PYTHONPATH"] = variables["PYTHONPATH"].strip(os.pathsep)  # of the runner itself
    training = {"tokens": 1024, "batch": 8, "seqlen": 32, "processes": 2}
    settings = {f"training.{k}": v for k, v in training.items()}
    flags = ["--methods", "magnitude,cast", "--measures", "size"]
    flags += runs.flags(tmp_path / "r", windows=None, **settings)
    done = bench(folder, variables, "-P", "-m", "bench", "run", *flags)

    assert done.returncode == 0, done.stderr
    assert {r.status for r in runs.records(tmp_path / "r").values()} == {"ok"}
    assert not marker.exists(), marker.read_text()


def test_the_command_as_a_module(folder, marker, variables):
    """Python puts the current folder first for `python -m bench`."""
    for name in ("bench", "methods"):  # Python looks for these before any code of ours runs
        (folder / f"{name}.py").unlink()
    variables["PYTHONPATH"] = variables["PYTHONPATH"].strip(os.pathsep)
    done = bench(folder, variables, "-m", "bench", "cache", "info")
    assert done.returncode == 0, done.stderr
    assert not marker.exists(), marker.read_text()
