"""Handlers of signals: what they do within a block, and what is left after it."""

import io
import signal

import pytest

from bench.execution import signals
from bench.execution.build import Builder
from bench.execution.events import Events
from bench.planning.plan import make_plan
from helpers import runs
from methods.workshop.training.interrupt import Stopped, stop_request


def handlers():
    return {s: signal.getsignal(s) for s in signals.ENDING}


@pytest.mark.parametrize(
    ("signum", "code", "word"),
    [(signal.SIGTERM, 143, "Terminated"), (signal.SIGHUP, 129, "Hung up")],
)
def test_a_signal_ends_a_command_with_its_code(signum, code, word):
    # A worker of xdist ignores SIGINT, and what is ignored stays so.
    own = signal.signal(signum, signal.default_int_handler)
    try:
        before = handlers()
        with pytest.raises(SystemExit) as ended, signals.ended_by_signals():
            signal.raise_signal(signum)
        assert ended.value.code == code and handlers() == before
    finally:
        signal.signal(signum, own)
    assert signals.describe_exit(code) == f"{word}. Run the same command to resume."


def test_a_training_that_failed_is_not_waited_for(tmp_path, monkeypatch, cache):
    def fail(*_):
        stop_request()
        raise RuntimeError("fault")

    monkeypatch.setattr(Builder, "_apply", fail)
    spec = runs.small(tmp_path / "r", measures=("size",))
    artifacts = [m.artifact for m in make_plan(spec).measurements]
    artifact = next(artifact for artifact in artifacts if artifact.method != "dense")
    with pytest.raises(RuntimeError, match="fault"):
        Builder(artifact, Events(io.StringIO())).build(artifact)
    try:
        with pytest.raises(Stopped):
            stop_request.receive(signal.SIGTERM)
    finally:
        stop_request.reset()


def test_an_ignored_signal_stays_ignored():
    """nohup ignores SIGHUP in this way."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.ended_by_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_exit_code_names_its_signal_and_no_other_code_does():
    assert signals.describe_exit(130) == "Interrupted. Run the same command to resume."
    assert [signals.describe_exit(code) for code in (0, 1, 2, 141, None)] == [""] * 5
