"""The script for a Slurm array, run here by a stand-in for sbatch."""

import json
import re
import signal
import subprocess
import time

import pytest

from bench import api
from bench.parts.cluster import slurm as script_writer
from bench.planning.spec import assign
from bench.results.store import ReadOnlyStore
from helpers import runs, slurm

TASKS = 4
PATIENCE_S = 300


@pytest.fixture(autouse=True)
def requests(tmp_path, monkeypatch):
    runs.own_cache(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    return slurm.pretend(tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_tasks_fill_one_folder_and_their_own_folders_merge_to_the_same(
    cli, tmp_path, requests, monkeypatch
):
    flags = ["--methods", "magnitude,wanda,ria", "--measures", "perplexity,size"]
    code, _, err = cli(
        "plan --slurm x.sh --shards", TASKS, *flags, *runs.flags("r", quantizers="none,int8")
    )
    assert code == 0 and err.endswith("then: sbatch x.sh\n"), err
    assert subprocess.run(["bash", "-n", "x.sh"], check=False).returncode == 0
    assert f"--array=1-{TASKS}\n" in (tmp_path / "x.sh").read_text()
    for task in range(1, TASKS + 1):
        done = slurm.start(tmp_path / "x.sh", task, TASKS)
        out, _ = done.communicate(timeout=PATIENCE_S)
        assert done.returncode == 0, out
    assert not requests.exists()
    runs.workers_here(monkeypatch)
    shards = {"whole": [], **{f"r{i}": ["--shard", f"{i}/{TASKS}"] for i in range(1, TASKS + 1)}}
    for folder, shard in shards.items():
        code, _, err = cli("run", *flags, *runs.flags(folder, quantizers="none,int8"), *shard)
        assert code == 0, err
    assert cli("merge", *list(shards)[1:], "--results", "merged")[0] == 0

    expected = runs.contents(tmp_path / "whole")
    assert runs.contents(tmp_path / "r") == runs.contents(tmp_path / "merged") == expected
    assert len(expected) == 24


def test_the_script_asks_for_what_the_plan_needs(cli, tmp_path):
    flags = [*runs.flags("a folder 😀", quantizers="none"), "--methods", "wanda", "--jobs", "2"]
    assert cli("plan", "--slurm", "x.sh", "--shards", "9", *flags)[0] == 0
    text = (tmp_path / "x.sh").read_text()

    assert "#SBATCH --array=1-2\n" in text, "no more tasks than artifacts"
    assert '--shard "$SLURM_ARRAY_TASK_ID/2" &\n' in text, (
        "a task that is submitted again alone is still one of two"
    )
    assert "#SBATCH --cpus-per-task=2\n" in text
    assert re.search(r"#SBATCH --time=\d\d:\d\d:00\n#SBATCH --mem=\dG\n", text)
    assert f"#SBATCH --signal=B:TERM@{script_writer.GRACE_S}\n" in text and "gres" not in text
    assert "'--set=results=\"a folder 😀\"'" in text and "--set=jobs=2" in text
    assign(values := {}, 'results="a folder 😀"')
    assert values == {"results": "a folder 😀"}


def test_jobs_do_not_divide_an_artifact(cli, tmp_path, monkeypatch):
    """The time is that of the longest artifact, ten hours here, however many jobs there are. All
    shards share one reading of past records."""
    fitted = []
    monkeypatch.setattr(script_writer, "fit_model", fitted.append)
    columns = [{"about_s": seconds, "about_GB": 1} for seconds in (36000.0, 60.0)]
    monkeypatch.setattr(script_writer, "estimate_columns", lambda *_: columns)
    script = script_writer.compose_script(api.plan(runs.small(tmp_path / "r", jobs=2)), 2)

    assert f"#SBATCH --time={10 * script_writer.MARGIN:02.0f}:00:00\n" in script
    assert len(fitted) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_time_that_is_not_known_is_said(cli, tmp_path, device):
    code, _, err = cli("plan", "--slurm", "x.sh", "--shards", "1", *runs.flags("r", device=device))
    said = [script_writer.UNKNOWN_TIME in text for text in (err, (tmp_path / "x.sh").read_text())]

    assert code == 0 and said == [device == "cuda"] * 2


NODES = ["--methods", "cast", "--measures", "perplexity", "--set=training.nodes=2",
         "--set=training.processes=2"]  # fmt: skip


def test_the_script_of_a_training_over_nodes_starts_bench_on_each(cli, tmp_path):
    assert cli("plan", "--slurm", "x.sh", "--shards", "1", *NODES, *runs.flags("r"))[0] == 0
    text = (tmp_path / "x.sh").read_text()

    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=1\n" in text
    assert "#SBATCH --cpus-per-task=1\n" in text
    assert "\nsrun bench run " in text and "\nexport MASTER_ADDR MASTER_PORT\n" in text
    assert '\nexport SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"' in text, (
        "or a task of srun has one processor"
    )


@pytest.mark.slow
def test_a_training_over_nodes_that_slurm_ends_goes_on_when_it_is_requeued(cli, tmp_path, requests):
    training = {"tokens": 40_000, "batch": 8, "seqlen": 32}
    settings = [f"--set=training.{name}={value}" for name, value in training.items()]
    found = cli("plan", "--slurm", "x.sh", "--shards", "1", *NODES, *settings, *runs.flags("r"))[0]
    assert found == 0
    first = slurm.start(tmp_path / "x.sh", 1, 1)
    log = tmp_path / "r/logs"
    deadline = time.monotonic() + PATIENCE_S
    while not any('"loss"' in file.read_text() for file in log.glob("*.jsonl")):
        assert time.monotonic() < deadline and first.poll() is None, first.communicate()[0]
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    out, _ = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 143 and requests.read_text() == f"requeue {slurm.JOB}_1\n", out
    assert list((tmp_path / "cache/training").glob("*/step-*"))

    again = slurm.start(tmp_path / "x.sh", 1, 1)
    out, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, out
    record = next(
        r for r in ReadOnlyStore(tmp_path / "r") if r.identity.method != "dense" and r.readings
    )
    assert record.status == "ok"
    events = [
        json.loads(line)
        for line in (log / f"{record.artifact[:32]}.jsonl").read_text().splitlines()
    ]
    started = [i for i, event in enumerate(events) if event["event"] == "started"]
    steps = [
        [e["done"] for e in events[i:] if e["event"] == "progress" and "loss" in e["figures"]]
        for i in started
    ]
    assert len(started) == 2 and steps[1][0] > 10, "it goes on"


def test_a_script_for_slurm_has_the_time_of_the_cards(tmp_path, cli):
    line = "plan --model llama2-7b --quant none --methods cast --device 8xh100 --shards 2 --slurm"
    code, _, err = cli(line, tmp_path / "s")
    script = (tmp_path / "s").read_text()

    assert code == 0, err
    hours = int(re.search(r"--time=(\d+):", script)[1])
    assert hours == pytest.approx(2 * 37, abs=1) and "no time is known" not in script


def test_the_processes_of_a_slurm_task_share_its_cores_and_not_its_gpus():
    changes = {"methods": ("retrain",), "calibration": {"sequences": 6, "processes": 2},
               "threads": 3, "jobs": 2}  # fmt: skip
    plan = api.plan(runs.small("r", **changes, training={"processes": 2}))
    assert "--cpus-per-task=6\n" in script_writer.compose_script(plan, 1)

    nodes = {"processes": 2, "nodes": 2, "batch": 2}
    plan = api.plan(runs.small("r", **changes | {"jobs": 1}, device="cuda", training=nodes))
    assert "--gres=gpu:2\n" in script_writer.compose_script(plan, 1), (
        "each node calibrates with two"
    )
