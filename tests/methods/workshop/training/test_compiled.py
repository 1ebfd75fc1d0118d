"""Training with compiled blocks: the same numbers, and no compiled block in the result."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch

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
        self._compiled_call_impl = lambda *args, **kwargs: (
            ran.append(1),
            self._call_impl(*args, **kwargs),
        )[1]

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    yield count
    assert ran
    assert len(kinds) == 2, (
        "a class for all scaled linears and one for the teacher's: a compilation serves one class"
    )


def test_compiled_blocks_train_as_others_do(llama, make_job, tmp_path, compiles):
    job = job_to_train(llama, make_job, counting(), tmp_path / "a", steps=3)
    plain = method("cast").apply(copy.deepcopy(llama), job)
    assert compiles == []

    other = method("cast", compile="on").apply(
        copy.deepcopy(llama), replace(job, workdir=tmp_path / "b")
    )

    # The teacher's, too.
    assert compiles == ["LlamaDecoderLayer"] * 2 * len(compiled.blocks_of(llama))
    assert other.notes.pop("compiled") is True
    assert plain.notes["curve"] == other.notes["curve"]
    assert all(block._compiled_call_impl is None for block in compiled.blocks_of(other.model))


def test_by_itself_it_compiles_on_a_card_only(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert compiled.is_wanted("auto", torch.device("cuda")) and not compiled.is_wanted(
        "auto", torch.device("cpu")
    )
    assert compiled.is_wanted("on", torch.device("cpu")) and not compiled.is_wanted(
        "off", torch.device("cuda")
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not compiled.is_wanted("auto", torch.device("cuda"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_inductor_compiles_a_block(llama, make_job, tmp_path):
    job = job_to_train(llama, make_job, counting(), tmp_path / "a", steps=3)
    plain = method("cast").apply(copy.deepcopy(llama), job)
    other = method("cast", compile="on").apply(
        copy.deepcopy(llama), replace(job, workdir=tmp_path / "b")
    )
    assert other.notes["curve"][-1]["loss"] == pytest.approx(
        plain.notes["curve"][-1]["loss"], rel=1e-3
    )
