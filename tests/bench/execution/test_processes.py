"""The environment that workers get, and which modules the fork server loads for them."""

import importlib
import os
import signal

import pytest

from bench.execution import processes
from bench.execution.forked import ForkServer
from bench.planning.plan import make_plan
from helpers import runs


def test_workers_sleep_soon_and_keep_memory(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)

    environment = processes.worker_environment()

    assert environment["GOMP_SPINCOUNT"] == "4000"
    assert environment["MALLOC_TRIM_THRESHOLD_"] == str(2**40)


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "7"), ("MALLOC_TRIM_THRESHOLD_", "1")])
def test_what_the_user_set_stays(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    assert processes.worker_environment()[name] == value


def test_a_wait_policy_is_not_overruled(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")

    assert "GOMP_SPINCOUNT" not in processes.worker_environment()


def test_imports_are_those_of_the_plan_and_can_be_imported(tmp_path):
    spec = runs.small(tmp_path, methods=("wanda",), measures=("perplexity", "zeroshot"), quantizers=("none", "int8"))
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
        "methods": ("magnitude", "wanda", "ria", "sparsegpt", "alps", "admm", "dsnot:from=wanda", "retrain", "cast"),
        "measures": ("perplexity", "agreement", "zeroshot", "size", "speed"),
        "quantizers": ("none", "int8", "int4-gptq"),
    }
    names = processes.list_imports(make_plan(runs.small(tmp_path / "r", **everything)).measurements)
    server = ForkServer(names, processes.worker_environment())
    try:
        with (tmp_path / "log").open("w") as log:
            worker = server.fork(log)  # raises where the server found a thread
            worker.kill()
            assert worker.wait() == -9
            worker.close()
    finally:
        server.close()


def test_a_stopped_worker_of_a_stopped_server_can_be_killed(tmp_path):
    server = ForkServer([], processes.worker_environment())
    try:
        with (tmp_path / "log").open("w") as log:
            worker = server.fork(log)
        for pid in (worker.pid, server.pid):
            os.kill(pid, signal.SIGSTOP)
        worker.kill()

        assert worker.wait(60) == -signal.SIGKILL
        worker.close()
    finally:
        server.close()


def test_plugins_are_not_imported_before_their_own_worker(tmp_path, monkeypatch):
    source = "from baselines.magnitude import Magnitude as Guest\n"
    runs.put_on_path(
        runs.distribution(tmp_path / "site", "guest", source, methods={"guest": "guest:Guest"}), monkeypatch
    )
    try:
        names = processes.list_imports(make_plan(runs.small(tmp_path / "r", methods=("guest",))).measurements)
    finally:
        monkeypatch.undo()
        runs.forget()

    assert not [n for n in names if n.startswith("guest")]
