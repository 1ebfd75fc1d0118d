"""A compiled decoding step answers as the model does, and is compiled once."""

import pytest
import torch
from transformers import LlamaConfig

from baselines.magnitude import Magnitude
from bench.parts.packed24.integers24 import pack_rounded
from bench.parts.packed24.linear24 import Linear24, pack_head, swap_linears, use_dense_twins
from bench.parts.speed import captured, decoding
from bench.system.devices import EAGER
from helpers.models import CONFIGS, GROUPED, job_for
from methods.model.families import FAMILIES
from methods.model.targets import dense_weight

PROMPT = torch.randint(3, 64, (1, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def own_cache(kernel, monkeypatch, tmp_path):
    """Skip without a native kernel. Use an empty cache."""
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / "cache"))


def packed(model, kind="int8"):
    """Put a random model on the kernel: 2:4 targets, and a head in int8."""
    job = job_for(model)
    Magnitude().apply(model, job)
    weights = {n: pack_rounded(dense_weight(model.get_submodule(n)), kind, n) for n in job.targets}
    return swap_linears(pack_head(model), weights, engine="native")


def greedy(model, count):
    out = model.generate(
        PROMPT, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
    )
    return out[0, PROMPT.shape[1] :].tolist()


def check(model, count):
    """Compare tokens with transformers', and the last logits with those of a whole pass."""
    model.generation_config.eos_token_id = None
    decoder = captured.Decoder(model, PROMPT.shape[1] + count)
    tokens = decoder.generate(PROMPT, count)
    assert tokens == greedy(model, count)
    whole = torch.cat((PROMPT, torch.tensor([tokens])), 1)
    got = decoder.step(whole[:, -1:], whole.shape[1] - 1)
    want = model(whole).logits[:, -1:]
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    return decoder


@pytest.mark.full
def test_a_captured_model_generates_what_transformers_does_and_is_compiled_once(make, monkeypatch):
    # A third layer takes seconds to compile.
    config = LlamaConfig(**GROUPED | {"num_hidden_layers": 2})
    monkeypatch.setitem(CONFIGS, "llama", lambda: config)
    quick = {
        "aot_inductor.compile_wrapper_opt_level": "O0",
        "aot_inductor.enable_line_tables": False,
    }
    options = captured._options() | quick
    monkeypatch.setattr(captured, "_options", lambda: options)
    model = packed(make("llama"))
    assert isinstance(model.get_output_embeddings(), Linear24)
    assert check(model, 12).compile_s > 0
    monkeypatch.setattr(captured, "_compile", None)
    other = packed(make("llama"))
    for module in other.modules():
        if isinstance(module, Linear24) and module.scales is not None:
            module.scales.mul_(1.5)
    assert check(use_dense_twins(other), 12).compile_s == 0  # other weights, and dense


@pytest.mark.numeric
@pytest.mark.full
def test_int4_is_captured(make):
    model = packed(make("llama"), "int4")
    assert {m.kernel_weight.bits for m in model.modules() if isinstance(m, Linear24)} == {4, 8}
    check(model, 12)
    check(use_dense_twins(model), 12)


def test_a_step_reads_a_strided_view_of_tokens_as_its_copy(make, monkeypatch):
    def load(_, step, inputs):
        """Read tokens by the strides of the capture, as compiled code does."""
        size, strides = inputs[0].shape, inputs[0].stride()
        return lambda ids, *others: step(ids.as_strided(size, strides), *others)

    monkeypatch.setattr(captured.Decoder, "_load", load)
    decoder = captured.Decoder(make("llama"), PROMPT.shape[1] + 1)
    decoder.prefill(PROMPT.expand(3, -1).clone())
    view = torch.arange(3, 63).reshape(3, 20)[:, 7:8]
    steps = [decoder.step(ids, PROMPT.shape[1]) for ids in (view, view.clone())]
    assert torch.equal(*steps) and len(steps[0].unique(dim=0)) == 3


def test_tables_of_sines_change_no_bit(make):
    model = make("llama")
    wanted = model(PROMPT).logits
    with captured._rotary_tables(model, PROMPT.shape[1]):
        assert type(model.model.rotary_emb).__name__ == "_RotaryTable"
        assert torch.equal(model(PROMPT).logits, wanted)
    assert torch.equal(model(PROMPT).logits, wanted) and model.model.rotary_emb.inv_freq.ndim == 1


def test_a_model_that_cannot_be_captured_stays_eager_with_the_reason(make, monkeypatch):
    def export(*_, **__):
        raise ValueError("a branch\non data")

    monkeypatch.setattr(torch.export, "export", export)
    monkeypatch.delenv(EAGER)
    monkeypatch.setattr(decoding, "RANDOM_TOKENS", 64)
    work = decoding.decode_step(1, 8)(make("llama"))
    assert work.graph == "eager, not compiled: ValueError: a branch"
    assert work().shape == (1, 1, 64)


@pytest.mark.numeric
@pytest.mark.full
@pytest.mark.parametrize("name", [n for n in CONFIGS if not FAMILIES[n].experts])
def test_every_dense_family_is_captured(make, name):
    check(packed(make(name)), 20)
