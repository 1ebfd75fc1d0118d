"""The environment that workers get, which modules the fork server loads for them, and what ends
when its parent does."""

import importlib
import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import psutil
import pytest

from bench.execution import processes
from bench.execution.forked import ForkServer
from bench.planning.plan import make_plan
from bench.system import interpreter
from helpers import runs
from helpers.faulty import PATIENCE_S, gone, until

DEFAULTS = {"GOMP_SPINCOUNT": "4000", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
DEFAULTS |= {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
DEFAULTS |= {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, DEFAULTS),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"MALLOC_TRIM_THRESHOLD_": "1"}, {"MALLOC_TRIM_THRESHOLD_": "1"}),
        ({"PYTORCH_ALLOC_CONF": ""}, {"PYTORCH_ALLOC_CONF": ""}),
        ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": None}),
    ],
)
def test_workers_sleep_soon_and_keep_memory_unless_the_user_said_otherwise(
    monkeypatch, variables, wanted
):
    for name in ("OMP_WAIT_POLICY", *DEFAULTS):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    environment = processes.worker_environment()
    assert {name: environment.get(name) for name in wanted} == wanted


def test_imports_are_those_of_the_plan_and_can_be_imported(tmp_path):
    measures = ("perplexity", "zeroshot")
    spec = runs.small(tmp_path, methods=("wanda",), measures=measures, quantizers=("none", "int8"))
    names = processes.list_imports(make_plan(spec).measurements)

    assert {"baselines.wanda", "bench.measures.perplexity", "bench.inputs.lmeval"} <= set(names)
    assert "transformers.models.llama.modeling_llama" in names
    assert "baselines.sparsegpt" not in names
    for name in names:
        importlib.import_module(name)
    without_tasks = make_plan(runs.small(tmp_path, methods=("magnitude",))).measurements
    assert "bench.inputs.lmeval" not in processes.list_imports(without_tasks)


@pytest.mark.full
def test_all_that_any_measure_and_method_imports_can_be_forked(tmp_path):
    """No library starts a thread when it is imported, or it ends it before a fork."""
    everything = {
        "methods": ("magnitude", "wanda", "ria", "sparsegpt", "alps", "admm", "dsnot:from=wanda",
                    "retrain", "cast"),
        "measures": ("perplexity", "agreement", "zeroshot", "size"),
        "quantizers": ("none", "int8", "int4-gptq"),
    }  # fmt: skip
    names = processes.list_imports(make_plan(runs.small(tmp_path / "r", **everything)).measurements)
    server = ForkServer(names, processes.worker_environment())
    with closing(server), (tmp_path / "log").open("w") as log:
        worker = server.fork(log)  # raises where the server found a thread
        worker.kill()
        assert worker.wait() == -9
        worker.close()


def test_a_stopped_worker_of_a_stopped_server_can_be_killed(tmp_path):
    server = ForkServer([], processes.worker_environment())
    with closing(server), (tmp_path / "log").open("w") as log:
        worker = server.fork(log)
        for pid in (worker.pid, server.pid):
            os.kill(pid, signal.SIGSTOP)
        worker.kill()

        assert worker.wait(60) == -signal.SIGKILL
        worker.close()


def test_a_signal_to_a_worker_that_ends_at_that_moment_is_no_error(tmp_path, monkeypatch):
    server = ForkServer([], processes.worker_environment())
    with closing(server), (tmp_path / "log").open("w") as log:
        worker = server.fork(log)

        def end_first(handle, signum, send=signal.pidfd_send_signal):
            monkeypatch.setattr(signal, "pidfd_send_signal", send)
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()  # as the thread that reads its events does
            send(handle, signum)

        monkeypatch.setattr(signal, "pidfd_send_signal", end_first)
        worker.send_signal(signal.SIGTERM)
        worker.close()


IMPORTS_S = 100
"""Seconds that an import takes in the next tests, far more than any process may stay."""
RUNNER = """
import time
from bench.execution.forked import ForkServer
from bench.execution.processes import worker_environment
print(ForkServer(["slow_library"], worker_environment()).pid, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def importing(tmp_path, monkeypatch):
    """A function that writes a module which says that it is being imported, and takes long. It
    returns what is said."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def write(name):
        said = tmp_path / "importing"
        source = (
            f"import pathlib, time\npathlib.Path({str(said)!r}).touch()\ntime.sleep({IMPORTS_S})\n"
        )
        (tmp_path / f"{name}.py").write_text(source)
        return said.exists

    return write


@pytest.mark.skipif(sys.platform != "linux", reason="fork servers are for Linux")
def test_a_server_that_still_imports_ends_with_a_killed_runner(importing):
    imports = importing("slow_library")
    runner = subprocess.Popen(
        [sys.executable, "-P", "-c", RUNNER], stdout=subprocess.PIPE, text=True
    )
    server = psutil.Process(int(runner.stdout.readline()))
    until(imports, "the server to import")
    killed = time.monotonic()
    runner.kill()
    runner.communicate()

    assert gone(server) and time.monotonic() - killed < IMPORTS_S / 2


@pytest.mark.parts("ranks")
def test_a_rank_that_still_imports_ends_with_its_worker(importing):
    imports = importing("torch")
    rank = subprocess.Popen(
        interpreter.command("bench.parts.ranks.rank_worker"), stdin=subprocess.PIPE, text=True
    )
    until(imports, "the rank to import")
    closed = time.monotonic()
    rank.stdin.close()  # as the end of the worker does
    rank.wait(PATIENCE_S)

    assert time.monotonic() - closed < IMPORTS_S / 2


def test_plugins_are_not_imported_before_their_own_worker(tmp_path, installed):
    source = "from baselines.magnitude import Magnitude as Guest\n"
    installed("guest", source, methods={"guest": "guest:Guest"})
    spec = runs.small(tmp_path / "r", methods=("guest",))
    names = processes.list_imports(make_plan(spec).measurements)

    assert not [n for n in names if n.startswith("guest")]


FREEING = """
import psutil
from bench.execution.memory_limit import return_free_memory
blocks = [bytearray(10**6) for _ in range(200)]
del blocks[:-1]
before = psutil.Process().memory_info().rss
return_free_memory()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_a_worker_returns_what_a_check_has_freed():
    command = [sys.executable, "-c", FREEING]
    environment = processes.worker_environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10**8
