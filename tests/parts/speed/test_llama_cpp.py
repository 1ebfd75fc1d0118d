"""llama.cpp: the calls that its Python package documents, by a stand-in; the package itself where
it is installed."""

import shutil
import sys
import types

import numpy as np
import pytest
import torch

from bench.inputs import loading
from bench.parts.speed.engines import llama_cpp
from bench.parts.speed.engines.contract import Step
from helpers.models import build, write
from methods.contract.errors import UserError
from methods.contract.method import Compute

KINDS = ("fp16", "q8_0", "q4_k_m", "q4_0")


class Versions:
    def __init__(self, folder, workdir):
        self.source, self.workdir = folder, workdir

    def folder(self, side):
        assert side == "dense"
        return self.source


@pytest.fixture
def model(tmp_path):
    return Versions(write(build("llama"), tmp_path / "m"), tmp_path)


@pytest.fixture
def package(monkeypatch, model):
    """A module in place of the package: it gives the model's own logits. off: what it adds to
    them."""
    module = types.ModuleType("llama_cpp")
    module.calls, module.off = [], 0.0

    class Llama:
        def __init__(
            self, path, *, n_ctx, n_batch, n_ubatch, n_threads, n_threads_batch, logits_all, verbose
        ):
            assert n_threads == n_threads_batch == 2 and not verbose
            assert n_batch == n_ubatch == n_ctx
            self.n_tokens, self.limit, self.path = 0, n_ctx, path.rpartition("/")[2]
            self.scores = np.zeros((n_ctx, 64), np.float32)

        def eval(self, tokens):
            module.calls.append((self.path, self.n_tokens, len(tokens)))
            with torch.inference_mode():
                logits = loading.load(model.source, Compute())(torch.tensor([tokens])).logits[0]
            self.scores[self.n_tokens : self.n_tokens + len(tokens)] = logits.numpy() + module.off
            self.n_tokens += len(tokens)
            assert self.n_tokens <= self.limit

    module.Llama = Llama
    module.llama_print_system_info = lambda: b"AVX2 = 1"
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    monkeypatch.setattr(llama_cpp.metadata, "version", lambda name: "0.3")
    monkeypatch.setattr(
        llama_cpp.llamacpp, "quantize", lambda file, out, kind, threads: shutil.copy(file, out)
    )
    return module


@pytest.mark.parts("gguf")
def test_a_step_begins_where_the_cache_ended(package, model):
    engine = llama_cpp.LlamaCpp()
    assert engine.about() == {"llama-cpp-python": "0.3", "build": "AVX2 = 1"}
    decode = engine.contestants(model, Step("decode", 1, 8), "cpu", 2)
    assert [(c.kind, c.side) for c in decode] == [(kind, "dense") for kind in KINDS]
    assert package.calls == [(f"{kind}.gguf", 0, tokens) for tokens in (16, 8) for kind in KINDS]
    package.calls.clear()
    for _ in range(3):
        decode[0].work()
    assert package.calls == [("fp16.gguf", 8, 1)] * 3
    package.calls.clear()
    prompt = engine.contestants(model, Step("prefill", 8, 0), "cpu", 2)
    prompt[1].work()
    prompt[1].work()
    assert package.calls == [("q8_0.gguf", 0, 8)] * 2  # the files are there already


@pytest.mark.parts("gguf")
def test_a_file_that_is_not_the_model_is_not_timed(package, model):
    package.off = 10.0
    with pytest.raises(UserError, match=r"llama\.cpp gives other logits for .* as GGUF fp16"):
        llama_cpp.LlamaCpp().contestants(model, Step("decode", 1, 8), "cpu", 2)


@pytest.mark.parts("gguf")
def test_the_package_gives_the_models_logits(model):
    pytest.importorskip("llama_cpp")
    for contestant in llama_cpp.LlamaCpp().contestants(model, Step("decode", 1, 8), "cpu", 1):
        contestant.work()
