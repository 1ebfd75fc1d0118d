"""Imports and commands load no slow library that they do not need."""

import subprocess
import sys
from textwrap import indent

import pytest

from bench.catalog.parts import found_parts
from helpers import runs

PROGRAM = "import sys\ntry:\n{}\nfinally:\n    print(*sys.modules)"
HOLDS = ("atexit.register(sleep, 600)", "Thread(target=sleep, args=[600]).start()")
HEAVY = {"torch", "transformers", "datasets", "lm_eval"}


def run(code, *arguments):
    """Run code in a process."""
    command = [sys.executable, "-c", PROGRAM.format(indent(code, "    ")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, set(done.stdout.splitlines()[-1].split())


IMPORTS = """
import bench
assert not {"torch", "pydantic", "pandas", "numpy"} & set(sys.modules)
from bench.catalog.registry import SECTIONS
assert sum(bool(e.about) for s in SECTIONS.values() for e in s.values()) >= 30
assert not {"torch", "pydantic"} & set(sys.modules)
from methods import Job, Needs, Pattern, UserError
from bench.system import devices, provenance
devices.fingerprint("cpu")
assert provenance.machine()["cpu"] and "isa" not in provenance.machine()
"""


def test_the_package_its_catalog_the_contract_and_the_machine_need_no_torch():
    ended, said, modules = run(IMPORTS)
    assert ended == 0 and "torch" not in modules, said


@pytest.mark.parametrize(
    ("line", "ended", "said", "absent"),
    [
        ("--help", 0, "", HEAVY | {"numpy", "pydantic"}),
        ("ls methods", 0, "", HEAVY),
        # Its sets need no lm-eval.
        ("plan --tasks maskllm7,wiki_lastword --quant none,int8,int4-gptq", 0, "", HEAVY),
        ("speed", 0, "", {"torch"}),
        (
            "run --methods cast:beta1=1",
            2,
            "bench: invalid cast:beta1=1: must be at least 0 and below 1\n",
            HEAVY - {"torch"} | {"torch.distributed.checkpoint"},
        ),
    ],
)
def test_commands(tmp_path, line, ended, said, absent):
    if line == "speed" and line not in found_parts():
        pytest.skip("the part speed is not there")
    flags = runs.flags(tmp_path / "r", None) if line.startswith(("plan", "run")) else []
    code, err, modules = run("from bench.cli import main\nmain.main()", *line.split(), *flags)
    assert code == ended and said in err, err
    assert absent & modules == set()
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("held", HOLDS)
def test_what_a_plug_in_leaves_does_not_hold_the_end_of_a_command(held):
    code = f"""
import atexit, sys
from threading import Thread
from time import sleep
from bench import __main__ as program
program.EXIT_S = 0.1
{held}
sys.argv = ["bench", "plan", "--methods", "magnitud"]
program.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
