"""kill -9 at random times of the driver, a worker, a Ray worker, or a node of a cluster, in sweeps of seconds.

Nothing is lost, doubled or corrupt, and nobody is left. CAST_BENCH_SOAK_SEED and CAST_BENCH_SOAK_ROUNDS give other times, and more
of them.
"""

import contextlib
import os
import random
import time

import psutil
import pytest

from helpers import ray_cluster, runs

pytest.importorskip("ray")

SEED = int(os.environ.get("CAST_BENCH_SOAK_SEED", "0"))
ROUNDS = int(os.environ.get("CAST_BENCH_SOAK_ROUNDS", "1"))
PATIENCE_S = 600


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster.two_nodes() as nodes:
        yield nodes


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    runs.own_cache(tmp_path, monkeypatch)


def start(cluster, results):
    sweep = ["--methods", "magnitude,wanda", "--measures", "perplexity,size"]
    return runs.start("run", *sweep, *runs.flags(results, quantizers="none,int8"), *ray_cluster.flags(cluster))


def kill(cluster, victim, run, rng):
    """Returns whether there was one."""
    workers = ray_cluster.workers()
    if victim == "driver":
        run.kill()
    elif not workers:
        return False
    elif victim == "node":
        second = [n for n in cluster.list_all_nodes() if n is not cluster.head_node]
        cluster.remove_node(second[0], allow_graceful=False)
        cluster.add_node(num_cpus=1)
    else:
        worker = rng.choice(workers)
        (worker if victim == "worker" else worker.parent()).kill()
    return True


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "worker", "ray worker", "node"])
def test_kills_at_random_times_lose_nothing(cluster, tmp_path, monkeypatch, victim):
    calm = runs.small(
        tmp_path / "calm", methods=("magnitude", "wanda"), quantizers=("none", "int8"), measures=("perplexity", "size")
    )
    runs.run_here(calm)
    expected = runs.contents(calm.results)
    started = time.monotonic()
    first = start(cluster, tmp_path / "timed")
    assert first.communicate(timeout=PATIENCE_S) and first.returncode == 0
    took = time.monotonic() - started
    rng = random.Random(f"ray {victim} {SEED}")
    for turn in range(ROUNDS):
        runs.own_cache(tmp_path / f"c{turn}", monkeypatch)
        results = tmp_path / f"r{turn}"
        moment = rng.uniform(0.2, 0.95) * took
        where = f"turn {turn} at {moment:.2f} of {took:.2f} s"
        run = start(cluster, results)
        time.sleep(moment)
        everyone = ray_cluster.workers()
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended before its time
            kill(cluster, victim, run, rng)
        _, err = run.communicate(timeout=PATIENCE_S)
        assert victim == "driver" or run.returncode == 0, f"{where}: {err}"
        again = start(cluster, results)
        _, err = again.communicate(timeout=PATIENCE_S)
        assert again.returncode == 0, f"{where}: {err}"
        assert runs.contents(results) == expected, where
        assert not psutil.wait_procs(everyone, timeout=60)[1], f"left behind, {where}"
