"""A mixture larger than memory: its experts come one by one, and the numbers stay."""

import gc
import threading
import time
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig

from baselines import experts
from baselines.wanda import squared_norm as squares
from bench.catalog import registry
from bench.catalog.choice import build
from bench.execution.smaller import write_smaller
from bench.inputs import loading
from helpers import models
from helpers.faulty import until
from helpers.layers import live_bytes
from methods.contract.method import Compute, NoProgress
from methods.model.experts import Expert, unfold
from methods.model.families import FAMILIES
from methods.model.folder import Folder
from methods.model.stacks import Stacks
from methods.workshop.pruning import activations
from methods.workshop.pruning.pairs import PairedWalk
from methods.workshop.pruning.streaming import last_hidden
from methods.workshop.pruning.walk import Walk

MIXTURES = [name for name, family in FAMILIES.items() if family.experts]


@pytest.fixture(params=models.sample(MIXTURES, "gpt_oss"))
def mixture(request):
    return request.param


@pytest.fixture(autouse=True)
def batches(monkeypatch):
    """Three of two sequences, where there would be one."""
    monkeypatch.setitem(activations.BATCH_TOKENS, "cpu", 32)


def fused(mixture, folder):
    """Write a model with one tensor of all experts."""
    return models.write(models.build(mixture), folder)


def published(mixture, folder):
    """Write a model as transformers does, in most families with linears of each expert."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(models.CONFIGS[mixture]()).save_pretrained(folder)
    return folder


def in_memory(folder, compute):
    """Load a model with aligned weights, because rounding depends on the alignment."""
    model = loading.load(folder, compute)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


class Both:
    """One method on one folder, the model in memory and streamed."""

    def __init__(self, make_job, folder, workdir, **fields):
        self.make_job, self.folder, self.workdir, self.fields = make_job, folder, workdir, fields

    def run(self, method, stream, **compute):
        settings = Compute(stream=stream, **compute)
        model = loading.load(self.folder, settings) if stream else in_memory(self.folder, settings)
        workdir = self.workdir / f"{stream}"
        fields = {"source": self.folder, "compute": settings, "workdir": workdir} | self.fields
        job = self.make_job(model, **fields)
        return build(registry.lookup("methods", method), method, {}).apply(model, job)

    def compare(self, method, **compute):
        """Asserts equality, to the bit, and returns the notes."""
        scratch = compute.pop("scratch", None)
        memory = self.run(method, False, **compute)
        limits = {"scratch": scratch, "max_bytes": 1} if scratch else {}
        streamed = self.run(method, True, **compute, **limits)
        assert streamed.notes == memory.notes
        models.same_to_the_bit(streamed, memory, self.folder)
        assert any(".experts." in name for name in memory.model.state_dict())
        return memory.notes


@pytest.fixture
def both(make_job, tmp_path):
    """both(folder, **fields of the job)"""
    return lambda folder, **fields: Both(make_job, folder, tmp_path / "work", **fields)


DAILY = [(fused, "sparsegpt"), (published, "magnitude")]
MORE = [(fused, "magnitude"), (fused, "wanda"), (published, "wanda")]


@pytest.mark.parametrize(("kind", "method"), models.sample(DAILY + MORE, *DAILY))
def test_streamed_by_expert_is_the_same_to_the_bit(mixture, method, kind, both, tmp_path):
    notes = both(kind(mixture, tmp_path / "source")).compare(method)
    assert ("experts" in notes) == (method != "magnitude")


@pytest.mark.parametrize("dtype", models.sample([torch.float32, torch.bfloat16], torch.bfloat16))
def test_when_experts_see_all_tokens_or_activations_are_on_disk_too(mixture, dtype, both, tmp_path):
    folder = fused(mixture, tmp_path / "source")
    notes = both(folder, all_experts=True).compare("sparsegpt", dtype=dtype)
    assert set(notes["experts"]["tokens"].values()) == {6 * 16}
    both(folder).compare("wanda", scratch=tmp_path, dtype=dtype)


PARTS = [".experts.", ".self_attn.", "gate_up_proj", "down_proj", ".1.mlp.", ".experts.2."]


@pytest.mark.parametrize("left_out", models.sample(PARTS, "gate_up_proj"))
def test_with_some_of_the_targets_too(left_out, make_job, both, tmp_path):
    folder = fused("mixtral", tmp_path / "source")
    targets = make_job(loading.load(folder, Compute())).targets
    targets = tuple(target for target in targets if left_out not in target)
    for every in (False, True):
        both(folder, targets=targets, all_experts=every).compare("sparsegpt")


@pytest.fixture
def watched(monkeypatch, make_job, tmp_path):
    """Yield a streamed mixture of eight experts, its job, and a list of (name, thread) reads."""
    reads = []
    tensor = Folder.tensor

    def spy(folder, name):
        if ".experts." in name:
            reads.append((name, threading.current_thread()))
        return tensor(folder, name)

    sizes = models.GROUPED | models.TOKENS | {"intermediate_size": 512}
    model = AutoModelForCausalLM.from_config(MixtralConfig(**sizes, num_local_experts=8))
    compute = Compute(stream=True)
    folder = models.write(unfold(model.eval().requires_grad_(False)), tmp_path / "source")
    skeleton = loading.load(folder, compute)
    monkeypatch.setattr(Folder, "tensor", spy)
    gc.freeze()  # what is there now is not looked through
    yield skeleton, make_job(skeleton, source=folder, compute=compute, workdir=tmp_path), reads
    gc.unfreeze()


EXPERT = 4 * 3 * 512 * 32
"""Bytes."""


def expert_bytes():
    """Return the memory of all new tensors of the size of an expert's linear."""
    return live_bytes(4 * 2 * 512 * 32, 4 * 512 * 32)


def experts_with_storage(model):
    """Return the names of the experts with weights in memory."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Expert) and not any(p.is_meta for p in module.parameters())
    ]


@pytest.mark.parametrize("accumulate", [None, squares], ids=["weights alone", "calibrated"])
def test_two_experts_are_in_memory(watched, accumulate):
    """Allow the expert in use, the next one, and a copy of one weight."""
    model, job, _ = watched
    most = 0

    for visit in Walk(model, job, accumulate):
        if ".experts.0." in visit.name:
            until(lambda: expert_bytes() > 1.5 * EXPERT, "the next expert to be read")
        time.sleep(0.002)  # for the thread, to read more than it should
        here = experts_with_storage(model)
        assert len(here) <= 1 and (".experts." not in visit.name or visit.name.startswith(here[0]))
        visit.prune(visit.weight > 0)
        most = max(most, expert_bytes())

    assert most <= 2 * EXPERT + 4 * 2 * 512 * 32
    assert not experts_with_storage(model)


def test_a_streamed_forward_has_two_experts_in_memory(watched, monkeypatch):
    model, job, _ = watched
    seen = []
    forward = Expert.forward

    def spy(self, x):
        time.sleep(0.002)
        seen.append((len(experts_with_storage(model)), expert_bytes()))
        return forward(self, x)

    monkeypatch.setattr(Expert, "forward", spy)
    last_hidden(model, job.source, job.calibration, 2, job.compute, NoProgress())

    assert {count for count, _ in seen} == {1}
    assert max(bytes_ for _, bytes_ in seen) <= 2 * EXPERT


@pytest.mark.parametrize("by", ["reap", "removal", "aimer"])
def test_removing_experts_has_two_in_memory(by, watched, monkeypatch):
    model, job, _ = watched
    seen = []

    def note():
        time.sleep(0.002)
        seen.append((len(experts_with_storage(model)), expert_bytes()))

    forward, weights = Expert.forward, experts.matrices

    def run(self, x):
        note()
        return forward(self, x)

    def look(expert):
        note()
        return weights(expert)

    monkeypatch.setattr(Expert, "forward", run)
    monkeypatch.setattr(experts, "matrices", look)
    kept = experts.Experts(drop=3, by=by).apply(model, job).kept

    assert {count for count, _ in seen} == {1}
    assert max(bytes_ for _, bytes_ in seen) <= 2 * EXPERT
    assert not experts_with_storage(model)
    most = 0

    def write(self, name, number, entry):
        nonlocal most
        most = max(most, expert_bytes())
        return put(self, name, number, entry)

    put = Stacks.write
    monkeypatch.setattr(Stacks, "write", write)
    write_smaller(model, job.source, kept, job.workdir / "smaller", torch.float32)
    assert 0 < most <= EXPERT


def test_each_expert_is_read_once(watched):
    model, job, reads = watched
    list(Walk(model, job, squares))
    names = [name for name, _ in reads]
    assert len(names) == len(set(names)) == 3 * 8 * 2
    assert threading.current_thread() not in {thread for _, thread in reads}


def test_a_block_is_kept_whole_where_it_is_trained(watched, make_job, tmp_path):
    """recon's walk: not a method of one expert after the other."""
    model, job, _ = watched
    job = replace(job, teacher=lambda: loading.load(job.source, job.compute))
    for pair in PairedWalk(model, job, goal="dense").pairs():
        assert len(experts_with_storage(model)) == 8
        assert pair.block is model.model.layers[int(pair.name.rsplit(".", 1)[1])]


def test_an_entry_that_was_not_written_is_said(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"1 entries of .* were not written"),
        Stacks(tmp_path / "x", {"a": (2, 4)}, torch.float32) as stacks,
    ):
        stacks.write("a", 1, torch.ones(4))
