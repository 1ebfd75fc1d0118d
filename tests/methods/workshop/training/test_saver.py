"""How often a training saves, and checkpoints that a thread writes."""

import copy
import threading
from dataclasses import replace

import pytest
import torch

from helpers.trainings import counting, job_to_train, method
from methods.workshop.training import saver, training_checkpoint
from methods.workshop.training.saver import Saver


@pytest.fixture
def beside(monkeypatch):
    """Let a thread write, as the state of a card is written."""
    monkeypatch.setattr(saver, "is_written_beside", lambda tensors: True)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(saver.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("took_s", "next_s"), [(1, 300), (60, 1140)])
def test_checkpoints_take_a_twentieth_of_the_time_at_most(
    took_s, next_s, clock, tmp_path, monkeypatch
):
    def write(*state):
        clock[0] += took_s

    monkeypatch.setattr(training_checkpoint, "write", write)
    saves = Saver(tmp_path, 300)
    clock[0] = 301
    assert saves.is_due()
    saves.save(1, {}, {})

    clock[0] += next_s
    assert not saves.is_due()
    clock[0] += 1
    assert saves.is_due()


def test_a_state_is_written_as_it_was_while_the_training_goes_on(beside, tmp_path, monkeypatch):
    real, may_write = training_checkpoint.write, threading.Event()

    def write(*state):
        may_write.wait(timeout=60)
        return real(*state)

    monkeypatch.setattr(training_checkpoint, "write", write)
    saves, weight, curve = Saver(tmp_path, 0), torch.zeros(3), []
    saves.save(1, {"weight": weight}, {"curve": curve})
    weight += 1
    curve.append(2)
    assert training_checkpoint.latest(tmp_path) is None
    may_write.set()
    saves.wait()

    folder, found = training_checkpoint.latest(tmp_path), {"weight": torch.ones(3)}
    training_checkpoint.read_into(folder, found)
    assert not found["weight"].any()
    assert training_checkpoint.read_info(folder) == {"curve": []}


def test_a_fault_of_the_thread_ends_the_training(beside, llama, make_job, tmp_path, monkeypatch):
    def write(*state):
        raise OSError("no space left")

    monkeypatch.setattr(training_checkpoint, "write", write)
    budget = {"checkpoint_s": 0, "log_every": 1}
    job = job_to_train(llama, make_job, counting(), tmp_path, steps=3, budget=budget)
    with pytest.raises(OSError, match="no space left"):
        method("dense-ft").apply(copy.deepcopy(llama), job)


def test_a_training_resumes_from_what_a_thread_wrote(beside, llama, make_job, tmp_path):
    class Killed(Exception):
        pass

    class Kill:
        def advance(self, done, total, **figures):
            if done == 4:
                raise Killed

    budget = {"checkpoint_s": 0, "log_every": 1}
    job = job_to_train(llama, make_job, counting(), tmp_path / "a", steps=6, budget=budget)
    straight = method("cast").apply(copy.deepcopy(llama), job)
    second = replace(job, workdir=tmp_path / "b")
    with pytest.raises(Killed):
        method("cast").apply(copy.deepcopy(llama), replace(second, progress=Kill()))
    assert training_checkpoint.latest(second.workdir).name == "step-3"

    resumed = method("cast").apply(copy.deepcopy(llama), second)

    assert resumed.notes == straight.notes
    for p, q in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q)
