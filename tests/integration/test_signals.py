"""SIGTERM and SIGHUP end a command as Ctrl-C does, a training after a checkpoint; the same command goes on."""

import json
import os
import signal

import psutil
import pytest

from bench.system.cache import cache_dir
from helpers import faulty, runs
from helpers.faulty import PATIENCE_S, gone, until

TRAINS = '''
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from methods import Job, Needs, Outcome, Settings, Trainer


@dataclass(frozen=True)
class Slow(Settings):
    """Dense training, a step at a time. While $GATE is there, each step waits a little."""

    name: ClassVar[str] = "slow"
    needs: ClassVar[Needs] = Needs.TRAINING

    def apply(self, model, job):
        trainer = Trainer("slow", model, job, self)
        gate = Path(os.environ.get("GATE", "/nowhere"))
        masks = {t: job.pattern.keep(model.get_submodule(t).weight.detach().abs()) for t in job.targets}

        def hook(step, total):
            if step >= 5 and gate.exists():
                gate.with_suffix(".reached").touch()
                time.sleep(0.1)
            return {}

        trainer.run(torch.optim.SGD(model.parameters(), lr=1e-3), teacher=False, hook=hook)
        def finish(model):
            with torch.no_grad():
                for target, mask in masks.items():
                    model.get_submodule(target).weight.masked_fill_(~mask, 0)
        names = frozenset(n for n, _ in model.named_parameters()) - {f"{t}.weight" for t in job.targets}
        return Outcome(trainer.finalize(finish), names, trainer.notes())
'''
TRAINING = {"training.tokens": 60 * 8 * 32, "training.batch": 8, "training.seqlen": 32}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    runs.distribution(folder, "slowly", TRAINS, methods={"slow": "slowly:Slow"})
    return faulty.install(folder)


@pytest.fixture(autouse=True)
def world(site, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
    yield from runs.world(site, tmp_path, monkeypatch)
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def gate(tmp_path, monkeypatch):
    return faulty.set_gate(tmp_path, monkeypatch)


def leftovers():
    """Temporary folders and marks in the cache."""
    return [p for part in ("tmp", "held") for p in (cache_dir() / part).glob("*")]


SIGNALS = [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated"), (signal.SIGHUP, 129, "Hung up")]


@pytest.mark.parametrize(("signum", "code", "word"), SIGNALS)
def test_a_run_ends_in_order(tmp_path, gate, signum, code, word):
    flags = ["--methods", "waits", "--measures", "size", *runs.flags(tmp_path / "r")]
    run, worker = faulty.stopped_at(gate, ["run", *flags])
    run.send_signal(signum)
    _, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == code, err
    assert err.splitlines()[-1] == f"bench: {word}. Run the same command to resume."
    assert "Traceback" not in err
    assert gone(worker)
    assert not leftovers()


def steps(results):
    """The checkpoints of unfinished trainings."""
    return sorted(int(p.name.removeprefix("step-")) for p in (cache_dir() / "training").glob("*/step-*"))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_training_is_saved_first_and_resumed(tmp_path, gate, signum, monkeypatch):
    flags = ["--methods", "slow", "--measures", "size", *runs.flags(tmp_path / "r", **TRAINING)]
    run = runs.start("run", *flags)
    until(gate.with_suffix(".reached").exists, "the training to begin")
    everyone = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signum)
    _, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 128 + signum, err
    assert "stopping after a checkpoint of the training" in err
    assert gone(*everyone)
    (step,) = steps(tmp_path)
    assert 5 < step < 60
    assert not leftovers()

    gate.unlink()
    again = runs.start("run", *flags)
    _, err = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, err
    assert not steps(tmp_path)
    here = runs.records(tmp_path / "r")
    runs.own_cache(tmp_path / "calm", monkeypatch)
    straight = runs.start("run", *flags[:4], *runs.flags(tmp_path / "straight", **TRAINING))
    straight.communicate(timeout=PATIENCE_S)
    there = runs.records(tmp_path / "straight")
    assert {k: r.same() for k, r in here.items()} == {k: r.same() for k, r in there.items()}


def test_a_second_signal_ends_a_training_at_once(tmp_path, gate, monkeypatch):
    """Its method does not come to the next step."""
    flags = ["--methods", "waits", "--measures", "size", *runs.flags(tmp_path / "r")]
    run, worker = faulty.stopped_at(gate, ["run", *flags])
    worker.suspend()
    run.send_signal(signal.SIGTERM)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=PATIENCE_S)

    assert run.returncode in (130, 143)
    assert gone(worker)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_training_in_the_command_s_own_process(tmp_path, gate, signum):
    """bench prune and bench finetune have no worker."""
    settings = [f"--set={k}={v}" for k, v in TRAINING.items()]
    flags = ["prune", "--method", "slow", "--out", tmp_path / "out", *settings, "--set=threads=1", "--device", "cpu"]
    run = runs.start(*flags)
    until(gate.with_suffix(".reached").exists, "the training to begin")
    run.send_signal(signum)
    _, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 128 + signum, err
    assert err.splitlines()[-1].endswith("Run the same command to resume.")
    (step,) = steps(tmp_path)
    assert 5 < step < 60
    assert not (tmp_path / "out").exists()

    gate.unlink()
    again = runs.start(*flags)
    _, err = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, err
    assert (tmp_path / "out/model.safetensors").exists()


def test_an_ignored_hangup_stays_ignored(tmp_path, gate):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        flags = ["--methods", "waits", "--measures", "size", *runs.flags(tmp_path / "r")]
        run, _ = faulty.stopped_at(gate, ["run", *flags])
    finally:
        signal.signal(signal.SIGHUP, before)
    run.send_signal(signal.SIGHUP)
    gate.unlink()
    _, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 0, err


def test_a_command_without_workers(tmp_path, monkeypatch):
    """A signal while a plan is made."""
    source = "import os, signal\nos.kill(os.getppid(), signal.SIGTERM)\nimport time\ntime.sleep(600)\n"
    site = runs.distribution(tmp_path / "other", "kills", source, methods={"kills": "kills:Kills"})
    path = f"{site}{os.pathsep}{os.environ['PYTHONPATH']}"
    run = runs.start("ls", "methods", env=os.environ | {"PYTHONPATH": path})
    _, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 143
    assert err == "bench: Terminated. Run the same command to resume.\n"


def test_help_names_the_exit_codes(cli):
    assert "130, 143, 129 stopped by Ctrl-C, SIGTERM or SIGHUP" in " ".join(cli("--help")[1].split())


def test_records_of_the_stopped_run_are_whole(tmp_path, gate):
    flags = ["--methods", "waits:at=write", "--measures", "size", *runs.flags(tmp_path / "r")]
    run, worker = faulty.stopped_at(gate, ["run", *flags])
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=PATIENCE_S)

    assert gone(worker)
    for file in (tmp_path / "r/records").glob("*.json"):
        json.loads(file.read_text())
    assert not list((tmp_path / "r").rglob("*.tmp"))
