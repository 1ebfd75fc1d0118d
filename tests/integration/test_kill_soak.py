"""kill -9 at random times of the runner, the fork server, a worker or a rank, in sweeps and in
trainings.

Nothing is lost, doubled or corrupt, nobody is left, and the next run sweeps what lies about.
CAST_BENCH_SOAK_SEED and CAST_BENCH_SOAK_ROUNDS give other times, and more of them: 15 rounds are 90
kills.
"""

import os
import random
import time

import psutil
import pytest

from helpers import runs

SEED = int(os.environ.get("CAST_BENCH_SOAK_SEED", "0"))
ROUNDS = int(os.environ.get("CAST_BENCH_SOAK_ROUNDS", "3"))
PATIENCE_S = 600

TRAINING = {"tokens": 16 * 8 * 32, "batch": 8, "seqlen": 32, "processes": 2, "checkpoint_s": 0}
KINDS = {
    "sweep": (["--methods", "magnitude,wanda"], "none,int8", {}),
    "side by side": (["--methods", "magnitude,wanda", "--jobs", "2"], "none,int8", {}),
    "training": (["--methods", "cast"], "none", {f"training.{k}": v for k, v in TRAINING.items()}),
}
VICTIMS = [
    (kind, v) for kind in ("sweep", "side by side") for v in ("runner", "server", "worker")
] + [("training", v) for v in ("runner", "worker", "rank")]


def command(kind, results):
    flags, quantizers, settings = KINDS[kind]
    flags = ["--measures", "perplexity,size", *flags]
    return ["run", *flags, *runs.flags(results, quantizers=quantizers, **settings)]


def family(process):
    """By their part in the run: runner, server, worker, rank."""
    members = {"runner": [process], "server": [], "worker": [], "rank": []}
    for child in process.children(recursive=True):
        words = child.cmdline()
        is_server = child.ppid() == process.pid and "bench.execution.fork_server" in words
        part = "server" if is_server else "worker"
        members["rank" if "bench.parts.ranks.rank_worker" in words else part].append(child)
    return members


@pytest.mark.slow
@pytest.mark.parts("ranks")
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("kind", "victim"), VICTIMS)
def test_kills_at_random_times_lose_nothing(tmp_path, monkeypatch, kind, victim):
    started = time.monotonic()
    calm = runs.start(*command(kind, tmp_path / "calm"))
    assert calm.communicate(timeout=PATIENCE_S) and calm.returncode == 0
    took = time.monotonic() - started
    expected = runs.contents(tmp_path / "calm")
    rng = random.Random(f"{kind} {victim} {SEED}")
    for turn in range(ROUNDS):
        cache = runs.own_cache(tmp_path / f"c{turn}", monkeypatch)
        results = tmp_path / f"r{turn}"
        moment = rng.uniform(0.05, 0.95) * took
        where = f"turn {turn} at {moment:.2f} of {took:.2f} s"
        process = runs.start(*command(kind, results))
        time.sleep(moment)
        everyone = []
        try:
            members = family(psutil.Process(process.pid))
            everyone = [p for group in members.values() for p in group]
            for member in members[victim][:1]:
                member.kill()
        except psutil.NoSuchProcess:
            pass  # it ended before its time
        _, err = process.communicate(timeout=PATIENCE_S)
        assert not psutil.wait_procs(everyone, timeout=30)[1], f"left behind, {where}"
        assert victim == "runner" or process.returncode in (0, 1), err
        again = runs.start(*command(kind, results))
        _, err = again.communicate(timeout=PATIENCE_S)
        assert again.returncode == 0, f"{where}: {err}"
        assert runs.contents(results) == expected, where
        assert not runs.left_over(results, cache), where
