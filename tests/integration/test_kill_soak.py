"""kill -9 of the runner, the fork server or a worker at random times: nothing lost, doubled or corrupt, nobody left.

CAST_BENCH_SOAK_SEED and CAST_BENCH_SOAK_ROUNDS give other times, and more of them.
"""

import json
import os
import random
import time

import psutil
import pytest

from helpers import runs

SEED = int(os.environ.get("CAST_BENCH_SOAK_SEED", "0"))
ROUNDS = int(os.environ.get("CAST_BENCH_SOAK_ROUNDS", "10"))
PATIENCE_S = 120


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    yield from runs.world(tmp_path / "site", tmp_path, monkeypatch)


def command(results):
    flags = ["--methods", "magnitude,wanda", "--measures", "perplexity,size"]
    return ["run", *flags, *runs.flags(results, quantizers="none,int8")]


def family(process):
    """By their part in the run: runner, server, worker."""
    members = {"runner": [process], "server": [], "worker": []}
    for child in process.children(recursive=True):
        is_server = child.ppid() == process.pid and "bench.run.fork_server" in child.cmdline()
        members["server" if is_server else "worker"].append(child)
    return members


def contents(results):
    """Every record by what it measures: no two of a kind."""
    found = {}
    for file in sorted((results / "records").glob("*.json")):
        record = json.loads(file.read_text())
        kind = json.dumps(record["identity"], sort_keys=True)
        assert kind not in found, f"doubled: {kind}"
        found[kind] = {k: v for k, v in record.items() if k not in ("provenance", "cost")}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["runner", "server", "worker"])
def test_kills_at_random_times_lose_nothing(tmp_path, victim):
    started = time.monotonic()
    calm = runs.start(*command(tmp_path / "calm"))
    assert calm.communicate(timeout=PATIENCE_S) and calm.returncode == 0
    took = time.monotonic() - started
    expected = contents(tmp_path / "calm")
    rng = random.Random(f"{victim} {SEED}")
    for turn in range(ROUNDS):
        results = tmp_path / f"r{turn}"
        moment = rng.uniform(0.05, 0.95) * took
        process = runs.start(*command(results))
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
        assert not psutil.wait_procs(everyone, timeout=30)[1], f"left behind, turn {turn} at {moment:.2f} s"
        assert victim == "runner" or process.returncode in (0, 1), err
        again = runs.start(*command(results))
        _, err = again.communicate(timeout=PATIENCE_S)
        assert again.returncode == 0, err
        assert contents(results) == expected, f"turn {turn} at {moment:.2f} s"
        assert not (results / "corrupt").exists()
        assert not list(results.rglob("*.tmp"))
