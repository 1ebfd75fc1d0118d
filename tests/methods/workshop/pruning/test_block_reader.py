"""A model larger than memory: how much of it is there at a time, whatever the machine."""

import gc
import threading
import time
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from baselines.wanda import squared_norm as squares
from bench.inputs import loading
from helpers.faulty import until
from helpers.layers import live_bytes
from helpers.models import SIZES, TOKENS
from methods.contract.method import Compute
from methods.model.folder import Folder
from methods.workshop.pruning import holders
from methods.workshop.pruning.activations import Activations
from methods.workshop.pruning.hessian import add_gram
from methods.workshop.pruning.walk import Walk

DEEP = LlamaConfig(
    **SIZES | {"num_hidden_layers": 5, "hidden_size": 64, "intermediate_size": 256}, **TOKENS
)


@pytest.fixture
def new_objects():
    """Limit the garbage collector to objects that this test makes."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def deep(make_job, keep_as, tmp_path):
    """Return a model of many blocks on disk, and a job over it."""
    folder = keep_as(AutoModelForCausalLM.from_config(DEEP), tmp_path / "source")
    model = loading.load(folder, Compute(stream=True))
    return model, make_job(model, source=folder, workdir=tmp_path, compute=Compute(stream=True))


@pytest.mark.parametrize("accumulate", [pytest.param(None, marks=pytest.mark.slow), squares])
def test_about_two_blocks_are_in_memory(deep, new_objects, accumulate, monkeypatch):
    monkeypatch.setattr(holders, "SHARD_BYTES", 1)
    model, job = deep
    block = 4 * (4 * 64 * 64 + 3 * 64 * 256 + 2 * 64)
    # Of the block; samples of its linears.
    inputs = 4 * job.calibration.numel() * (64 + 3 * 64 + 256 if accumulate else 0)
    before, peak = live_bytes(), 0

    for visit in Walk(model, job, accumulate):
        if not peak:
            until(lambda: live_bytes() - before > 1.5 * block, "the next block to be read")
        time.sleep(0.005)  # for the thread, to read more than it should
        visit.prune(visit.weight > 0)
        peak = max(peak, live_bytes() - before)

    assert peak <= 2 * block + inputs + 4 * 64 * 256 + 2**15  # a copy of one weight, and statistics
    assert live_bytes() - before < block / 2


def test_next_block_is_read_while_this_one_is_in_use(deep, monkeypatch):
    model, job = deep
    read, threads, is_read = [], set(), threading.Event()
    tensor = Folder.tensor

    def spy(self, name):
        read.append(name)
        threads.add(threading.current_thread())
        if name.startswith("model.layers.1."):
            is_read.set()
        return tensor(self, name)

    monkeypatch.setattr(Folder, "tensor", spy)
    visits = iter(Walk(model, job))
    next(visits)

    assert is_read.wait(30) and len(threads) == 2
    assert not [n for n in read if n.startswith("model.layers.2.")]
    visits.close()
    assert [t for t in threads if t.is_alive()] == [threading.current_thread()]


def test_fault_of_the_thread_is_raised(deep, monkeypatch):
    model, job = deep
    tensor = Folder.tensor

    def fail(self, name):
        if name.startswith("model.layers.3."):
            raise OSError("the disk is gone")
        return tensor(self, name)

    monkeypatch.setattr(Folder, "tensor", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        list(Walk(model, job))


@pytest.mark.parametrize(("accumulate", "power"), [(squares, 1), (add_gram, 2)])
def test_activations_on_disk_change_nothing(
    accumulate, power, llama, make_job, tmp_path, monkeypatch
):
    job = make_job(llama)
    monkeypatch.setattr("methods.workshop.pruning.holders.LIBRARY_BYTES", 0)
    weights = 4 * sum(p.numel() for p in llama.parameters())
    states = 4 * job.calibration.numel() * 32
    statistics = 4 * (3 * 32**power + 3 * 64**power)

    kinds, make_states = [], Activations.make_states

    def note_kind(self):
        made = make_states(self)
        kinds.append(type(made).__name__)
        return made

    def stats(limit):
        there = replace(job, compute=replace(job.compute, scratch=tmp_path, max_bytes=limit))
        return {v.name: v.stat for v in Walk(llama, there, accumulate, batch=4)}

    monkeypatch.setattr(Activations, "make_states", note_kind)
    here = stats(weights + statistics + states)
    there = stats(weights + statistics + states - 1)

    assert list(dict.fromkeys(kinds)) == ["StatesInMemory", "StatesOnDisk"]
    assert here.keys() == there.keys() and all(torch.equal(here[k], there[k]) for k in here)
    assert not list(tmp_path.iterdir()), "the file has no name"


def test_max_memory_says_what_fits(llama, keep_as, tmp_path):
    from bench.execution.job import fits_device

    folder = Folder(keep_as(llama, tmp_path / "source"))
    weights = 4 * sum(torch.Size(shape).numel() for shape in folder.shapes().values())
    at = (folder, torch.device("cpu"), torch.float32)
    assert fits_device(*at, 1.26e-9 * weights) and fits_device(*at)
    assert not fits_device(*at, 1.24e-9 * weights)
