"""Every bad command line: exit code 2 and a sentence, before anything is loaded or written."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.execution.processes import WorkerProcesses
from bench.results.store import Store
from helpers import fake_records, folders, runs
from helpers.installed import with_commands
from helpers.limits import limits
from methods.model.folder import Folder

FILES = [
    Path(__file__).parent / "command_lines.txt",
    *sorted(Path(__file__).parents[1].glob("parts/*/command_lines.txt")),
]
LINES = with_commands(
    line for file in FILES for line in file.read_text().splitlines() if line and line[0] != "#"
)

ODD = [
    ["run", "--model", "\udcff"],
    ["run", "--methods", "wanda\nmagnitude"],
    ["run", "--methods", "\x1b]52;c;eA==\a"],
    ["run", "--set", "seeds=1\nmodels=2"],
]
"""Arguments that no file of lines can have."""
SAMPLE = 3
"""The default run takes one line of so many."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the lines name."""
    root = tmp_path_factory.mktemp("place")
    (root / "taken").write_text("a file where a folder should be")
    (root / "notes.txt").write_text("no model")
    (root / "full").mkdir()
    (root / "full" / "mine").write_text("mine")
    os.mkfifo(root / "pipe")
    configs = {
        "broken": b"methods = [", "binary": b"\xff\xfe\0\0", "run": b"models = ['tiny']\n",
    }  # fmt: skip
    for name, text in configs.items():
        (root / f"{name}.toml").write_bytes(text)
    for name in ("linked", "layers", "narrow", "pickled"):
        folders.DAMAGES[name](runs.tiny(root / name))
    runs.tiny(root / "whole")
    Store(root / "none")
    for method in ("wanda", "magnitude"):
        fake_records.perplexity(root / "r", method=method)
    fake_records.failed(root / "bad")
    return root


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """Work in the folder of bad files, without a CUDA device."""

    def refuse(*_, **__):
        raise AssertionError("loaded before the line was refused")

    runs.own_cache(tmp_path, monkeypatch)
    monkeypatch.chdir(place)
    monkeypatch.setattr(Folder, "tensor", refuse)
    monkeypatch.setattr(WorkerProcesses, "start", refuse)
    monkeypatch.setattr("bench.inputs.loading.load", refuse)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    return place


def entries(folder):
    """Return the paths in a folder, each with its size in bytes."""
    return sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))


def cases():
    """Yield every line. A line that names no words of its sentence stands for many of its kind."""
    given = []
    for command, _, said in (line.partition(" => ") for line in LINES):
        given.append((shlex.split(command), said.split(" | ") if said else []))
    for number, (arguments, said) in enumerate([*((odd, []) for odd in ODD), *given]):
        marks = pytest.mark.full if number % SAMPLE else ()
        yield pytest.param(arguments, said, marks=marks, id=" ".join(arguments)[:60])


@pytest.mark.parametrize(("arguments", "said"), list(cases()))
def test_a_bad_line_is_a_sentence_and_exit_code_2(cli, here, arguments, said):
    before = entries(here)
    with limits():
        code, out, err = cli(*arguments)

    lines = err.splitlines()
    assert code == 2, err
    assert len(lines) == 1 and lines[0].startswith("bench: ") and len(err) < 700, err
    assert [part for part in said if part not in err] == [], err
    assert not out and "Traceback" not in err
    assert entries(here) == before


def test_a_bad_line_is_the_same_in_a_process_of_its_own_and_loads_no_torch(place):
    code = """
import sys
from bench.cli.main import main
try:
    main()
finally:
    sys.exit("loaded") if {"torch", "transformers", "pandas"} & set(sys.modules) else None
"""
    command = [sys.executable, "-c", code, "run", "--model", "linked"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)

    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("bench: ") and len(done.stderr.splitlines()) == 1
