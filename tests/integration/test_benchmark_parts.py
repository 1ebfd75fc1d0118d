"""The part of a benchmark that runs in another process, and the options of a benchmark."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = '''"""Benchmark of nothing."""

import os

from harness import apart, split, start


def part(case: str) -> dict[str, object]:
    if case == "broken":
        raise ValueError("no such thing")
    return {"process": os.getpid(), "variable": os.environ["VARIABLE"]}


def main(cases: str = "whole") -> None:
    os.environ["VARIABLE"] = "set here"
    for case in split(cases, ("whole", "broken")):
        found = apart(part, case)
        print(case, found["process"] != os.getpid(), found["variable"], flush=True)


if __name__ == "__main__":
    start(main)
'''


def test_a_part_runs_in_another_process_with_this_environment_and_may_end_it(tmp_path):
    (tmp_path / "nothing.py").write_text(SCRIPT)
    path = os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, tmp_path / "nothing.py", "--cases", "whole,broken,whole"]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert (done.returncode, done.stdout) == (1, "whole True set here\n"), done.stderr
    assert done.stderr.startswith("part whole {'process': ")
    assert re.search(r"in part\n.*ValueError: no such thing\n$", done.stderr, re.DOTALL)


def test_an_unknown_case_is_a_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as it sets where nothing is set
    monkeypatch.syspath_prepend(BENCHMARKS)
    harness = importlib.import_module("harness")
    said = re.escape("unknown: none, no; known: whole, broken")
    with pytest.raises(SystemExit, match=f"^{said}$"):
        harness.split("whole,none,no", ("whole", "broken"))
