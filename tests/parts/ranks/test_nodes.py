"""One training over two nodes: processes of torchrun, or variables as Slurm sets them."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.parts.ranks import nodes
from bench.results.store import ReadOnlyStore
from helpers import runs
from methods.contract.errors import UserError

PATIENCE_S = 300
MASTER = {"MASTER_ADDR": "head", "MASTER_PORT": "29500"}
SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"} | MASTER
TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"} | MASTER
TRAINING = {"tokens": 4096, "batch": 8, "seqlen": 32, "processes": 2}


def flags(results, **training):
    settings = {f"training.{name}": value for name, value in (TRAINING | training).items()}
    return ["--methods", "cast", "--measures", "perplexity", *runs.flags(results, **settings)]


def test_who_is_who_is_said_by_torchrun_or_by_slurm():
    assert nodes.find_place(2, SLURM) == nodes.Place(1, 0, "head", 29500, holds_store=False)
    assert nodes.find_place(2, TORCHRUN) == nodes.Place(0, 0, "head", 29500, holds_store=True)
    agent = TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert not nodes.find_place(2, agent).holds_store
    assert nodes.find_place(2, SLURM | TORCHRUN).node == 0, "torchrun inside a Slurm job"


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_a_node_that_nobody_placed_is_told_how_to_start(missing):
    with pytest.raises(UserError, match="this command on each of 2 nodes, started by torchrun"):
        nodes.find_place(2, {k: v for k, v in TORCHRUN.items() if k != missing})
    with pytest.raises(UserError, match=r"training\.nodes=3, and 2 nodes were started"):
        nodes.find_place(3, TORCHRUN)


@pytest.mark.parametrize(
    ("training", "more", "message"),
    [
        ({"nodes": 2, "processes": 3}, [], "processes=3 cannot be divided among training.nodes=2"),
        ({"nodes": 2}, ["--jobs", "2"], "takes one artifact at a time"),
        ({"nodes": 2}, [], "needs this command on each of 2 nodes"),
    ],
)
def test_what_nodes_cannot_do_is_refused(
    refused, tmp_path, training, more, message, monkeypatch, cache
):
    if len(more) or training.get("processes") == 3:
        for name, value in TORCHRUN.items():
            monkeypatch.setenv(name, value)
    assert message in refused("run", *flags(tmp_path / "r", **training), *more)


def start(arguments, log):
    """`bench run` on two nodes of one machine."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "bench", "run", *arguments,
    ]  # fmt: skip
    path = filter(None, [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    output = {"stdout": log.open("w"), "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, **output, env=environment)


def numbers(results):
    good = [record for record in ReadOnlyStore(results) if record.status == "ok"]
    return {record.key: [reading.value for reading in record.readings] for record in good}


@pytest.mark.slow
def test_two_nodes_train_what_two_processes_of_one_do(output, tmp_path, monkeypatch, cache):
    log = tmp_path / "log"
    assert start(flags(tmp_path / "two", nodes=2), log).wait(PATIENCE_S) == 0, log.read_text()
    assert "node 2 of 2 lends 1 processes" in log.read_text()
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / "another cache"))
    output("run", *flags(tmp_path / "one"))
    one, two = numbers(tmp_path / "one"), numbers(tmp_path / "two")
    assert one == two and len(one) == 4


def running(parent, words):
    """The processes below another whose command contains `words`."""
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ends meanwhile
            if words in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.slow
def test_the_other_node_ends_with_the_first_ones_training(tmp_path, cache):
    """Its process has no pipe to the first node: it sees that the store is gone."""
    log = tmp_path / "log"
    launcher = start(flags(tmp_path / "r", nodes=2, tokens=4_096_000), log)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (ranks := running(launcher.pid, "bench.parts.ranks.rank_worker")):
            assert time.monotonic() < deadline and launcher.poll() is None, log.read_text()
            time.sleep(0.2)
        for process in running(launcher.pid, "bench.execution.fork_server"):
            if process.ppid() != launcher.pid:
                process.kill()
        gone, _ = psutil.wait_procs(ranks, timeout=60)
        assert len(ranks) == 1 and gone == ranks, log.read_text()
    finally:
        everyone = running(launcher.pid, "")
        launcher.terminate()
        launcher.wait(60)
    assert not psutil.wait_procs(everyone, timeout=30)[1]
