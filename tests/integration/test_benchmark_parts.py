"""The part of a benchmark that runs in another process, and the options of a benchmark."""

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
    if case == "killed":
        os.kill(os.getpid(), 9)
    return {"case": case, "process": os.getpid(), "variable": os.environ["VARIABLE"]}


def main(cases: str = "whole") -> None:
    os.environ["VARIABLE"] = "set here"
    for case in split(cases, ("whole", "broken", "killed")):
        found = apart(part, case)
        print(found["case"], found["process"] != os.getpid(), found["variable"], flush=True)


if __name__ == "__main__":
    start(main)
'''


@pytest.fixture
def run(tmp_path):
    """A run of the benchmark with some options."""
    (tmp_path / "nothing.py").write_text(SCRIPT)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")])
    }

    def go(*options):
        command = [sys.executable, tmp_path / "nothing.py", *options]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    return go


def test_a_part_runs_in_another_process_with_this_environment(run):
    done = run()
    assert (done.returncode, done.stdout) == (0, "whole True set here\n"), done.stderr
    assert done.stderr.startswith("part whole {'case': 'whole', ")


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ("broken,whole", r"(?s).* in part\n.*ValueError: no such thing\n"),
        ("killed,whole", r"(?s).*terminated abruptly.*"),
        ("whole,none", "unknown: none; known: whole, broken, killed\n"),
    ],
)
def test_a_part_that_is_not_done_ends_the_benchmark_with_the_reason(run, cases, said):
    done = run("--cases", cases)
    assert (done.returncode, done.stdout) == (1, "") and re.fullmatch(said, done.stderr), (
        done.stderr
    )
