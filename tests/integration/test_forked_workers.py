"""Workers from the fork server: they end as others do, and what is killed leaves nothing behind."""

import os

import psutil
import pytest

from helpers import plugins, runs
from helpers.faulty import PATIENCE_S, gone, stopped_at

pytestmark = pytest.mark.usefixtures("world")


def command(tmp_path, *methods, measure="size"):
    flags = ["--methods", ",".join(methods), "--measures", measure]
    return ["run", *flags, *runs.flags(tmp_path / "r", windows=None)]


def statuses(tmp_path):
    return {k[0]: r.status for k, r in runs.records(tmp_path / "r").items()}


def server_of(run):
    children = psutil.Process(run.pid).children()
    (server,) = [p for p in children if "bench.execution.fork_server" in p.cmdline()]
    return server


def open_files(process):
    folder = f"/proc/{process.pid}/fd"
    return {os.readlink(f"{folder}/{number}") for number in os.listdir(folder)}


@pytest.mark.full
def test_all_but_the_first_are_forked_from_one_thread_and_log_to_their_own_file(tmp_path, gate):
    run, worker = stopped_at(gate, command(tmp_path, "waits", "magnitude"))

    assert worker.parent() == server_of(run)
    assert server_of(run).num_threads() == 1
    assert "bench.execution.fork_server" in worker.cmdline()
    assert {psutil.Process(worker.pid).environ()["MALLOC_TRIM_THRESHOLD_"]} == {str(2**40)}
    log = os.readlink(f"/proc/{worker.pid}/fd/2")
    assert log.startswith(str(tmp_path / "cache/logs"))

    server_of(run).kill()
    gate.unlink()
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, "a killed server costs nothing"
    assert statuses(tmp_path) == {"dense": "ok", "waits": "ok", "magnitude": "ok"}
    assert "workers start slower from here on: the fork server ended (code -9)" in err
    assert gone(worker)


@pytest.mark.slow
def test_no_worker_holds_a_pipe_of_another_or_of_the_server(tmp_path, gate):
    run, worker = stopped_at(gate, command(tmp_path, "magnitude", "waits"))
    files, servers = open_files(worker), open_files(server_of(run))
    gate.unlink()
    run.communicate(timeout=PATIENCE_S)
    sockets = {f for f in servers if f.startswith(("socket", "pipe"))}
    assert sockets
    assert not sockets & files


@pytest.mark.slow
def test_where_forking_is_not_safe_workers_start_anew(tmp_path, monkeypatch, gate):
    """As with a CUDA context or a thread in the server."""
    module = tmp_path / "site" / "sitecustomize.py"
    module.parent.mkdir()
    module.write_text(
        "import sys, threading, time\n"
        "if 'bench.execution.fork_server' in sys.orig_argv:\n"
        "    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{module.parent}{os.pathsep}{os.environ['PYTHONPATH']}")
    gate.unlink()
    run = runs.start(*command(tmp_path, "magnitude"))
    _, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 0
    assert "workers start slower from here on: 1 threads run before the fork" in err
    assert statuses(tmp_path) == {"dense": "ok", "magnitude": "ok"}


@pytest.mark.slow
def test_random_numbers_differ_from_worker_to_worker(tmp_path):
    """Python's and numpy's generators are seeded anew, as in a process of its own."""
    drawn = "values = {'python': random.random(), 'numpy': numpy.random.random()}\n"
    drawn += "return Readings(tuple(Reading(n, v, '1', 'lower') for n, v in values.items()))"
    site = plugins.install(tmp_path / "lots", "lots", {"lots": drawn}, kind="measures")
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{os.environ['PYTHONPATH']}"}
    asked = command(tmp_path, "magnitude", "declares", measure="lots")
    runs.start(*asked, env=environment).communicate(timeout=PATIENCE_S)

    records = runs.records(tmp_path / "r").values()
    drawn = [r.readings for r in records if r.identity.measure == "lots"]
    assert len(drawn) == 3
    for values in zip(*drawn, strict=True):
        assert len({reading.value for reading in values}) == 3


@pytest.mark.slow
def test_a_stopped_worker_fails_and_a_stopped_server_goes_on(tmp_path):
    """The timeout is more than the first worker takes to import torch beside other work."""
    methods = ("stops:whom=server", "stops", "magnitude")
    run = runs.start(*command(tmp_path, *methods), "--set", "stall_timeout=30")
    run.communicate(timeout=PATIENCE_S)
    good = ("dense", "stops:whom=server", "magnitude")
    assert statuses(tmp_path) == dict.fromkeys(good, "ok") | {"stops": "failed"}
    assert "made no progress" in runs.records(tmp_path / "r")["stops", None, "size"].reason
