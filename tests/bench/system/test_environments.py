"""Environments count only when they are complete, and each failure is one sentence.

A short script replaces Python, its venv and its pip.
"""

import json
import os
import sys
from dataclasses import replace

import pytest
from filelock import FileLock

from bench.catalog.entries import METHODS
from bench.system import cache, environments
from bench.system.environments import EnvironmentSpec
from helpers import runs
from methods.contract.errors import Skipped, UserError

PYTHON = f"""#!{sys.executable}
import json, os, shutil, sys
from pathlib import Path

isolated, *said = sys.argv[1:]
if isolated != "-I":
    sys.exit("modules of the current folder would be run")
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps(said), file=calls)
if said[:2] == ["-m", "venv"]:
    (Path(said[2]) / "bin").mkdir(parents=True)
    shutil.copy(__file__, Path(said[2]) / "bin/python")
elif "install" in said:
    print("Collecting", said[-1])
    if said[-1] == os.environ.get("MISSING"):
        print("ERROR: No matching distribution found for", said[-1])
        print("a word of advice")
        sys.exit(1)
elif "distributions" in said[-1]:
    print("a warning of somebody's")
    print(json.dumps({{"library": "1.8.0", "other": "2"}}))
elif said[-1] == os.environ.get("ILL"):
    print("ModuleNotFoundError: No module named 'library'")
    sys.exit(1)
"""
SPEC = EnvironmentSpec(
    steps=("library==1.8.0", "late<2"),
    constraints=("late<2",),
    check="import library",
    packages=("library",),
    pythons=((3, 11),),
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Set up an empty cache and one environment. Calls of its build are logged."""
    runs.own_cache(tmp_path, monkeypatch)
    fake = tmp_path / "python"
    fake.write_text(PYTHON)
    fake.chmod(0o755)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr(environments, "_interpreter", lambda *_: fake)
    monkeypatch.setattr(environments, "ENVIRONMENTS", {"old": SPEC})
    return environments.folder("old")


def calls(tmp_path):
    return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]


def test_is_built_in_order_and_then_counts(home, tmp_path):
    said = []
    with pytest.raises(Skipped, match="run `bench env create old`"):
        environments.python("old")

    assert environments.create("old", said.append) == home

    installs = [c for c in calls(tmp_path) if "install" in c]
    assert [c[-1] for c in installs] == list(SPEC.steps)
    assert "-c" in installs[0] and "-c" not in installs[1]
    assert (home / "constraints.txt").read_text() == "late<2\n"
    assert environments.python("old") == home / "bin/python"
    assert "old: 1 of 2: pip install library==1.8.0" in said
    assert "  Collecting library==1.8.0" in said


def test_another_pin_makes_it_outdated_and_it_is_built_anew(home, monkeypatch):
    environments.create("old", print)
    (home / "leftover").touch()
    changed = {"old": replace(SPEC, steps=("library==1.9",))}
    monkeypatch.setattr(environments, "ENVIRONMENTS", changed)

    assert environments.state("old") == "outdated"
    with pytest.raises(Skipped):
        environments.python("old")
    environments.create("old", print)
    assert environments.state("old") == "built"
    assert not (home / "leftover").exists()


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("MISSING", "late<2", "ERROR: No matching distribution found for late<2"),
        ("ILL", "import library", "ModuleNotFoundError: No module named 'library'"),
    ],
)
def test_half_built_never_counts(home, cli, monkeypatch, variable, value, word):
    monkeypatch.setenv(variable, value)

    code, _, err = cli("env", "create", "old")

    said = f"bench: environment old could not be built: {word}. Its log is {home}.log. "
    assert code == 2 and err.splitlines()[-1].startswith(said)
    assert environments.state("old") == "half built"
    with pytest.raises(Skipped):
        environments.python("old")
    monkeypatch.delenv(variable)
    assert cli("env", "create", "old")[0] == 0
    assert environments.state("old") == "built"


def test_it_is_listed_and_stays_unless_all_goes(home, output):
    (absent,) = json.loads(output("env", "ls", "--json"))
    environments.create("old", print)
    (built,) = json.loads(output("env", "ls", "--json"))

    about = {"name": "old", "path": str(home)}
    assert absent == about | {"state": "absent", "versions": "", "bytes": 0}
    size = sum(p.stat().st_size for p in home.rglob("*") if p.is_file())
    assert built == about | {"state": "built", "versions": "library 1.8.0", "bytes": size}

    cache.gc(everything=False, days=0)
    assert environments.state("old") == "built"
    cache.gc(everything=True, days=0)
    assert environments.state("old") == "absent"


def test_a_cache_that_cannot_be_written(home, refused, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / "file"))
    assert "cannot be written" in refused("env", "create", "old")


def test_two_at_once(home):
    home.parent.mkdir(parents=True)
    with FileLock(home.with_suffix(".lock")), pytest.raises(UserError, match="another process"):
        environments.create("old", print)


def test_no_python_it_runs_on(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(UserError, match=r"environment old needs one of python3\.0 on \$PATH"):
        environments._interpreter("old", replace(SPEC, pythons=((3, 0),)))
    own = replace(SPEC, pythons=(sys.version_info[:2],))
    assert environments._interpreter("old", own).samefile(sys.executable)


def test_pins_are_part_of_a_method_s_key(monkeypatch):
    from bench.catalog.code import method_digest

    entry = METHODS["sparseml-magnitude"]
    before = method_digest(entry)
    real = environments.ENVIRONMENTS["sparseml"]
    pinned = replace(real, steps=(*real.steps, "numpy<2"))
    monkeypatch.setitem(environments.ENVIRONMENTS, "sparseml", pinned)

    assert method_digest(entry) != before
    assert method_digest(METHODS["wanda"])
