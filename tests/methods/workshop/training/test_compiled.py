"""Training with compiled blocks: the same numbers, and no compiled block in the result."""

import copy
import shutil
from dataclasses import replace
from functools import partialmethod
from itertools import product

import pytest
import torch

from helpers.models import build
from helpers.trainings import counting, job_to_train, method
from methods.workshop.training import compiled


@pytest.fixture
def compiles(monkeypatch):
    """Return the classes of compiled blocks, one entry per call. A compiled block runs eagerly."""
    count, ran, kinds = [], [], set()

    def compile_(self, **options):
        assert options == {"dynamic": False}
        kinds.add(type(self.mlp.up_proj))
        count.append(type(self).__name__)

        def run(*args, **kwargs):
            ran.append(1)
            return self._call_impl(*args, **kwargs)

        self._compiled_call_impl = run

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    yield count
    assert ran
    assert len(kinds) == 2, "all scaled linears are of one class, and the teacher's of another"


@pytest.fixture
def both(llama, make_job, tmp_path):
    """both() -> the outcomes of a training, without and with compiled blocks, one by one."""
    job = job_to_train(llama, make_job, counting(), tmp_path / "a", steps=3)

    def train(mode):
        there = replace(job, workdir=tmp_path / mode)
        return method("cast", compile=mode).apply(copy.deepcopy(llama), there)

    return map(train, ("off", "on"))


def test_compiled_blocks_train_as_others_do(llama, both, compiles):
    plain = next(both)
    assert compiles == []

    other = next(both)

    # The teacher's, too.
    assert compiles == ["LlamaDecoderLayer"] * 2 * len(compiled.blocks_of(llama))
    assert other.notes.pop("compiled") == {"frames": 0, "eager": 0, "limit_hit": False}
    assert plain.notes["curve"] == other.notes["curve"]
    assert all(block._compiled_call_impl is None for block in compiled.blocks_of(other.model))


def test_by_itself_it_compiles_on_a_card_only(monkeypatch):
    def wanted():
        return [
            (mode, device)
            for mode, device in product(("auto", "on", "off"), ("cuda", "cpu"))
            if compiled.is_wanted(mode, torch.device(device))
        ]

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert wanted() == [("auto", "cuda"), ("on", "cuda"), ("on", "cpu")]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert wanted() == [("on", "cuda"), ("on", "cpu")]


@pytest.fixture
def dynamo(monkeypatch):
    """torch.compile traces for real. Only its last stage, the compiler, is left out."""
    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(real, backend="eager"))
    yield
    torch.compiler.reset()


def trained(family, make_job, work, **options):
    model = build(family)
    job = job_to_train(model, make_job, counting(), work, steps=3, **options)
    return method("cast", compile="on").apply(copy.deepcopy(model), job)


@pytest.mark.parametrize(
    ("family", "frames"),
    [
        # the student, its validation and the teacher; twice with two masks
        ("llama", 3),
        pytest.param("olmo3", 6, marks=pytest.mark.slow),
        # in several parts each, around the experts
        pytest.param("mixtral", 14, marks=pytest.mark.full),
    ],
)
def test_dynamo_compiles_blocks_a_few_times(family, frames, make_job, tmp_path, dynamo):
    outcome = trained(family, make_job, tmp_path)

    assert outcome.notes["compiled"] == {"frames": frames, "eager": 0, "limit_hit": False}
    assert not any("forward" in vars(module) for module in outcome.model.modules())


def test_a_record_tells_that_compilation_ended_at_the_limit(
    make_job, tmp_path, dynamo, monkeypatch
):
    monkeypatch.setattr(compiled, "RECOMPILE_LIMIT", 2)
    notes = trained("llama", make_job, tmp_path).notes
    assert notes["compiled"] == {"frames": 2, "eager": 1, "limit_hit": True}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_inductor_compiles_a_block(both):
    plain, other = (outcome.notes["curve"][-1]["loss"] for outcome in both)
    assert other == pytest.approx(plain, rel=1e-3)
