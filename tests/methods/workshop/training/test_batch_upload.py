"""Steps of a training wait for the device only where they log. The meta device replaces a card."""

import copy
import sys
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from baselines import maskllm
from bench.catalog.entries import METHODS
from cast.adams import AdamS
from helpers.models import sample
from helpers.trainings import counting, job_to_train, method
from methods.contract.method import Compute
from methods.contract.pattern import Pattern
from methods.model.targets import family_of
from methods.workshop.training import batch_upload, trainer

aten = torch.ops.aten
META = torch.device("meta")
STEPS = 12
SYNCHRONIZING = (
    aten._local_scalar_dense.default, aten.nonzero.default, aten.nonzero_static.default,
    aten.masked_select.default, aten._unique2.default, aten.unique_dim.default,
    aten.is_nonzero.default, aten.equal.default, aten.bincount.default,
)  # fmt: skip
"""Results whose value or shape a process can only have after the device is done."""
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
"""With a mask in place of numbers, these look for its non-zeros."""


def is_on_device(thing):
    return isinstance(thing, torch.Tensor) and thing.device == META


class Waits(TorchDispatchMode):
    """Counts in `steps` what waits for the device, and answers with zeros in its place."""

    def __init__(self):
        super().__init__()
        self.steps = [[]]

    def note(self, what):
        self.steps[-1].append(what)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in SYNCHRONIZING and any(map(is_on_device, args)):
            self.note(str(func))
            if func is aten._local_scalar_dense.default:
                return torch.zeros((), dtype=args[0].dtype).item()
            here = [torch.zeros_like(a, device="cpu") if is_on_device(a) else a for a in args]
            return func(*here, **kwargs)
        if func in INDEXED and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.note("index by a mask")
            return args[0]
        if func is aten._to_copy.default:
            copied = args[0].device, kwargs.get("device")
            if copied == (META, torch.device("cpu")):
                self.note("copy to the CPU")
                return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
            if copied == (torch.device("cpu"), META) and not kwargs.get("non_blocking"):
                self.note("copy from the CPU that waits")
        if func is aten.copy_.default and args[0].device != args[1].device:
            to_device = args[0].device == META
            if not (to_device and len(args) > 2 and args[2]):
                self.note("copy between devices")
            return args[0]
        # The meta device has no such operator, and no random numbers of a generator.
        if func is aten._fused_adamw_.default:
            return None
        if func is aten.exponential_.default:
            return args[0]
        return func(*args, **kwargs)


@pytest.fixture
def count(make_job, tmp_path, monkeypatch):
    """count(method, model) -> for each step on the meta device, what waited for the device."""

    def run(name, dense):
        waits = Waits()
        pattern = "dense" if name == "dense-ft" else "2:4"
        options = {"steps": STEPS, "budget": {"log_every": LOG_EVERY}}
        job = job_to_train(dense, make_job, counting(), tmp_path, pattern, **options)
        teacher = job.teacher().to(META)
        prior = replace(job.prior, masks={n: m.to(META) for n, m in job.prior.masks.items()})
        job = replace(job, compute=Compute(device=META), teacher=lambda: teacher, prior=prior)
        real = trainer.Trainer._gradients

        def step(self, number, teacher_model):
            waits.steps.append([])
            return real(self, number, teacher_model)

        monkeypatch.setattr(trainer.Trainer, "_gradients", step)
        for module in ("torch.optim.adam", "torch.optim.optimizer"):
            found = sys.modules[module]
            if hasattr(found, "_get_fused_kernels_supported_devices"):
                monkeypatch.setattr(found, "_get_fused_kernels_supported_devices", lambda: ["meta"])
        # Autocast knows no meta device.
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        generator = maskllm._generator
        monkeypatch.setattr(maskllm, "_generator", lambda device, *key: generator("cpu", *key))
        model = copy.deepcopy(dense).to(META)
        with waits:
            method(name).apply(model, job)
        return waits.steps[1:]

    return run


def shallow(model):
    """Return the model with one block."""
    path = family_of(model.config.to_dict()).blocks
    model.set_submodule(path, model.get_submodule(path)[:1])
    model.config.num_hidden_layers = 1
    return model


LOG_EVERY = 5
LOGGED = [4, 9, 11]
"""Steps that read the losses; what the next step does before its gradients counts as theirs."""
WAITING = {
    "elsa": [0, *LOGGED],  # it projects every 32nd step, and reads how far the weights were
    "ast": list(range(STEPS)),  # it chooses masks in every step, and reads how much they changed
    "sr-ste": list(range(STEPS)),  # as ast
    "proxsparse": list(range(STEPS)),  # its descent ends when every group has arrived
}
CAST = ("cast", "llama")
TRAINED = [name for name, entry in METHODS.items() if entry.trains]


@pytest.mark.parametrize(
    ("name", "family"), sample([*((n, "llama") for n in TRAINED), ("retrain", "opt")], CAST)
)
def test_steps_that_log_nothing_wait_for_nothing(count, make, name, family):
    steps = count(name, shallow(make(family)))
    assert len(steps) == STEPS
    assert [i for i, waited in enumerate(steps) if waited] == WAITING.get(name, LOGGED)
    if name not in WAITING:  # CAST reads its lambda once, before step 10
        assert set(steps[4]) == {"copy to the CPU"}


def test_a_training_shorter_than_a_refresh_reads_its_lambda_once_at_the_end():
    p, waits = torch.nn.Parameter(torch.randn(8, 16, device=META)), Waits()
    optimizer = AdamS(
        [{"params": [p], "sparse": True}], total=3, pattern=Pattern(2, 4), lr=1e-3, refresh=10
    )
    with waits:
        for _ in range(3):
            p.grad = torch.randn(8, 16, device=META)
            optimizer.step()
            waits.steps.append([])

    assert isinstance(optimizer.param_groups[0]["lambda_"], float)
    assert [len(step) for step in waits.steps] == [0, 0, 1, 0]


def test_batches_are_those_of_the_corpus_on_any_device(monkeypatch):
    corpus, asked = counting(), []
    real = type(corpus).batch

    def batch(self, step, *place):
        asked.append(step)
        return real(self, step, *place)

    monkeypatch.setattr(type(corpus), "batch", batch)
    for device, ahead in ((torch.device("cpu"), []), (META, [0, 1, 2, 3])):
        batches = batch_upload.Batches(corpus, device, 0, 2)
        asked.clear()
        for step in range(3):
            got = batches.take(step)
            assert got.shape == (4, 16) and got.device == device
            if device.type == "cpu":
                assert torch.equal(got, real(corpus, step, 0, 2))
            batches.prefetch(step + 1)
        assert asked == (ahead or [0, 1, 2])
    batches.take(7)
    assert asked[-1] == 7  # what was prepared for another step is not taken


def test_a_card_reads_pinned_memory_by_itself(monkeypatch):
    tensor, pin, to = torch.ones(2), Mock(), Mock()
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(pin.return_value, "to", to)
    assert batch_upload.upload(tensor, torch.device("cuda")) is to.return_value
    to.assert_called_once_with(torch.device("cuda"), non_blocking=True)
    assert batch_upload.upload(tensor, torch.device("cpu")) is tensor and pin.call_count == 1
