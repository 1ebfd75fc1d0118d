"""SIGTERM and SIGHUP end a command as Ctrl-C does, a training after a checkpoint."""

import contextlib
import os
import signal

import psutil
import pytest

from bench.system.cache import cache_dir
from helpers import runs
from helpers.faulty import PATIENCE_S, checkpoints, gone, until

STEPS = 60
TRAINING = {"tokens": STEPS * 8 * 32, "batch": 8, "seqlen": 32}


@pytest.fixture(autouse=True)
def world(site, tmp_path, monkeypatch):
    # A background job's children ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield from runs.world(site, tmp_path, monkeypatch)
    signal.signal(signal.SIGINT, before)


def leftovers():
    """Temporary folders and marks in the cache."""
    return [p for part in ("tmp", "held") for p in (cache_dir() / part).glob("*")]


def prepared(tmp_path, method, **training):
    """A results folder in which dense is done, so that a test pays for one artifact."""
    spec = runs.small(tmp_path / "r", methods=(method,), measures=("size",), training=training)
    runs.run_here(spec, only=["dense"])
    settings = {f"training.{k}": v for k, v in training.items()}
    flags = ["--methods", method, "--measures", "size"]
    return spec, ["run", *flags, *runs.flags(spec.results, windows=None, **settings)]


@pytest.mark.full
def test_a_training_is_saved_first_and_resumed(tmp_path, gate):
    """SIGINT. The test below sends SIGHUP, and test_faults.py SIGTERM."""
    spec, command = prepared(tmp_path, "slow", **TRAINING)
    run = runs.start(*command)
    until(gate.with_suffix(".reached").exists, "the training to begin")
    everyone = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 130, err
    assert "stopping after a checkpoint of the training" in err
    assert gone(*everyone)
    (step,) = checkpoints()
    assert 5 <= step < STEPS  # the signal came in step 5 or later
    assert not leftovers()

    gate.unlink()
    events = runs.run_here(spec)
    assert not checkpoints() and {e["status"] for e in events} == {"ok"}


@pytest.mark.full
def test_a_training_is_saved_when_its_terminal_is_closed(tmp_path, gate):
    """Then nothing can be printed."""
    _, command = prepared(tmp_path, "slow", **TRAINING)
    terminal, theirs = os.openpty()
    os.set_blocking(terminal, False)
    run = runs.start(*command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)

    def has_begun():
        with contextlib.suppress(BlockingIOError, OSError):
            os.read(terminal, 65536)
        return gate.with_suffix(".reached").exists()

    until(has_begun, "the training to begin")
    os.close(terminal)
    run.send_signal(signal.SIGHUP)

    assert run.wait(PATIENCE_S) == 129
    assert len(checkpoints()) == 1


def test_a_command_without_workers(tmp_path):
    """A signal while a plan is made."""
    source = (
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nimport time\ntime.sleep(600)\n"
    )
    site = runs.distribution(tmp_path / "other", "kills", source, methods={"kills": "kills:Kills"})
    path = f"{site}{os.pathsep}{os.environ['PYTHONPATH']}"
    run = runs.start("ls", "methods", env=os.environ | {"PYTHONPATH": path})
    _, err = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 143
    assert err == "bench: Terminated. Run the same command to resume.\n"


def test_help_names_the_exit_codes(cli):
    shown = " ".join(cli("--help")[1].split())
    assert "130, 143, 129 stopped by Ctrl-C, SIGTERM or SIGHUP" in shown
