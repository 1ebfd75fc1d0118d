"""kill -9 at random times of what runs in a task of a Slurm array, as when a node is lost; the tasks are queued again.

Nothing is lost, doubled or corrupt, and nobody is left. CAST_BENCH_SOAK_SEED and CAST_BENCH_SOAK_ROUNDS give other times, and more
of them.
"""

import os
import random
import time

import psutil
import pytest

from helpers import runs, slurm

SEED = int(os.environ.get("CAST_BENCH_SOAK_SEED", "0"))
ROUNDS = int(os.environ.get("CAST_BENCH_SOAK_ROUNDS", "1"))
TASKS = 2
PATIENCE_S = 600
SWEEP = ["--methods", "magnitude,wanda", "--measures", "perplexity,size"]


def script(cli, folder):
    """Of an array that fills `folder`."""
    file = folder.with_suffix(".sh")
    flags = [*SWEEP, *runs.flags(folder, quantizers="none,int8")]
    code, _, err = cli("plan", "--slurm", file, "--shards", TASKS, *flags)
    assert code == 0, err
    return file


def start(file):
    return [slurm.start(file, task, TASKS) for task in range(1, TASKS + 1)]


def victims(task, victim):
    """What is killed of a task: all of it, its run, or a worker."""
    below = psutil.Process(task.pid).children(recursive=True)
    if victim == "task":
        return [psutil.Process(task.pid), *below]
    workers = [p for p in below if p.ppid() != task.pid]
    return workers[-1:] if victim == "worker" else [p for p in below if p not in workers]


def end(tasks):
    """Their exit codes, and what they said."""
    said = [task.communicate(timeout=PATIENCE_S)[0] for task in tasks]
    return [task.returncode for task in tasks], "\n".join(said)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["task", "run", "worker"])
def test_kills_at_random_times_lose_nothing(cli, tmp_path, monkeypatch, victim):
    monkeypatch.chdir(tmp_path)
    slurm.pretend(tmp_path, monkeypatch)
    runs.own_cache(tmp_path / "calm", monkeypatch)
    started = time.monotonic()
    codes, said = end(start(script(cli, tmp_path / "calm/r")))
    took = time.monotonic() - started
    assert codes == [0] * TASKS, said
    expected = runs.contents(tmp_path / "calm/r")
    rng = random.Random(f"slurm {victim} {SEED}")
    for turn in range(ROUNDS):
        cache = runs.own_cache(tmp_path / f"c{turn}", monkeypatch)
        results = tmp_path / f"r{turn}"
        moment = rng.uniform(0.05, 0.95) * took
        where = f"turn {turn} at {moment:.2f} of {took:.2f} s"
        file = script(cli, results)
        tasks = start(file)
        time.sleep(moment)
        chosen = rng.randrange(TASKS)
        everyone = []
        try:
            everyone = psutil.Process(tasks[chosen].pid).children(recursive=True)
            for process in victims(tasks[chosen], victim):
                process.kill()
        except psutil.NoSuchProcess:
            pass  # it ended before its time
        codes, said = end(tasks)
        assert codes[1 - chosen] == 0, f"the other task, {where}: {said}"
        assert not psutil.wait_procs(everyone, timeout=30)[1], f"left behind, {where}"
        codes, said = end(start(file))
        assert codes == [0] * TASKS, f"{where}: {said}"
        assert runs.contents(results) == expected, where
        assert not runs.left_over(results, cache), where
