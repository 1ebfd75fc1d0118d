"""Artifacts on a Ray cluster of two nodes on this machine: the records of the local executor,
whatever dies on the way."""

import signal

import psutil
import pytest

from helpers import ray_cluster, runs
from helpers.faulty import checkpoints, undisturbed, until
from helpers.ray_cluster import PATIENCE_S, node_of

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

TRAINING = {"tokens": 60 * 8 * 32, "batch": 8, "seqlen": 32}


@pytest.fixture(scope="module")
def gate_file(tmp_path_factory):
    return tmp_path_factory.mktemp("gate") / "gate"


@pytest.fixture(scope="module")
def cluster(site, gate_file):
    """Its nodes have the plug-in, and know the gate."""
    with pytest.MonkeyPatch.context() as patch:
        runs.put_on_path(site, patch)
        patch.setenv("GATE", str(gate_file))
        with ray_cluster.two_nodes() as nodes:
            yield nodes


@pytest.fixture(autouse=True)
def world(cluster, site, tmp_path, monkeypatch):
    yield from runs.world(site, tmp_path, monkeypatch)


@pytest.fixture
def gate(gate_file, monkeypatch):
    """Where `waits` stands still until it is gone."""
    gate_file.touch()
    gate_file.with_suffix(".reached").unlink(missing_ok=True)
    monkeypatch.setenv("GATE", str(gate_file))
    yield gate_file
    gate_file.unlink(missing_ok=True)


def started(cluster, results, methods, measures="size", windows=None, **settings):
    line = ["run", "--methods", methods, "--measures", measures, *ray_cluster.flags(cluster)]
    return runs.start(*line, *runs.flags(results, windows=windows, **settings))


def ended(run, code=0):
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == code, err
    return err


def both_at_the_gate(gate):
    at_gate = gate.with_suffix(".reached")
    until(lambda: len(ray_cluster.workers()) == 2 and at_gate.exists(), "the gate", PATIENCE_S)
    return ray_cluster.workers()


def test_records_are_those_of_the_local_executor(cluster, tmp_path, monkeypatch):
    asked = ("magnitude,wanda", "perplexity,size")
    err = ended(started(cluster, tmp_path / "r", *asked, quantizers="none,int8", windows=4))

    assert "writes into the results folder" in err
    chosen = {"methods": ("magnitude", "wanda"), "quantizers": ("none", "int8"),
              "measures": ("perplexity", "size")}  # fmt: skip
    expected = undisturbed(tmp_path, monkeypatch, **chosen)
    assert runs.contents(tmp_path / "r") == expected and len(expected) == 18


WAITING = ("waits", "waits:at=write")


@pytest.mark.parametrize("victim", ["worker", "ray worker", "node"])
def test_what_dies_is_made_again_elsewhere(cluster, tmp_path, monkeypatch, gate, victim):
    runs.run_here(runs.small(tmp_path / "r", methods=WAITING, measures=("size",)), only=["dense"])
    run = started(cluster, tmp_path / "r", ",".join(WAITING))
    workers = both_at_the_gate(gate)
    (second,) = [w for w in workers if node_of(cluster, w) is not cluster.head_node]
    if victim == "node":
        cluster.remove_node(node_of(cluster, second), allow_graceful=False)
    else:
        (second if victim == "worker" else second.parent()).kill()
    assert not psutil.wait_procs([second], timeout=30)[1], "the worker outlives what it worked for"
    gate.unlink()
    err = ended(run)
    if victim == "node":
        cluster.add_node(num_cpus=1)

    assert err.count("another attempt follows") == 1, err
    found = runs.contents(tmp_path / "r")
    assert found == undisturbed(tmp_path, monkeypatch, methods=WAITING, measures=("size",))


def test_a_driver_that_dies_is_started_again(cluster, tmp_path, monkeypatch, gate):
    run = started(cluster, tmp_path / "r", ",".join(WAITING))
    workers = both_at_the_gate(gate)
    run.kill()
    run.communicate()
    assert not psutil.wait_procs(workers, timeout=60)[1], "workers outlive their driver"
    gate.unlink()
    ended(started(cluster, tmp_path / "r", ",".join(WAITING)))

    found = runs.contents(tmp_path / "r")
    assert found == undisturbed(tmp_path, monkeypatch, methods=WAITING, measures=("size",))


@pytest.mark.usefixtures("as_other_processes")
@pytest.mark.parametrize("who", ["a spot node", "the driver"])
def test_a_training_is_saved_first_and_goes_on(cluster, tmp_path, monkeypatch, gate, who):
    settings = {f"training.{k}": v for k, v in TRAINING.items()}
    runs.run_here(
        runs.small(tmp_path / "r", methods=("slow",), measures=("size",), training=TRAINING),
        only=["dense"],
    )
    run = started(cluster, tmp_path / "r", "slow", **settings)
    until(gate.with_suffix(".reached").exists, "the training to begin", PATIENCE_S)
    (worker,) = ray_cluster.workers()
    if who == "a spot node":
        worker.parent().send_signal(signal.SIGTERM)
    else:
        run.send_signal(signal.SIGTERM)
    assert not psutil.wait_procs([worker], timeout=60)[1]
    assert checkpoints() and checkpoints()[0] >= 5
    gate.unlink()
    if who == "a spot node":
        assert "another attempt follows" in ended(run)
    else:
        ended(run, 128 + signal.SIGTERM)
        ended(started(cluster, tmp_path / "r", "slow", **settings))

    expected = undisturbed(
        tmp_path, monkeypatch, methods=("slow",), measures=("size",), training=TRAINING
    )
    assert runs.contents(tmp_path / "r") == expected


def test_no_cluster_is_one_sentence(cli, tmp_path):
    code, _, err = cli("run --executor ray --ray-address 127.0.0.1:9", *runs.flags(tmp_path / "r"))

    assert code == 2 and "no Ray cluster at --ray-address '127.0.0.1:9'" in err.splitlines()[-1]
