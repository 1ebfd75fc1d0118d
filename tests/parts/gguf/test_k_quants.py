"""K-quants and i-quants, byte for byte those of llama.cpp's own program for whole files."""

import pytest
import torch
from gguf import GGUFReader
from transformers import LlamaConfig, LlamaForCausalLM

from baselines.magnitude import Magnitude
from bench.catalog.choice import parse_quantizer
from bench.inputs import llamacpp
from bench.parts.gguf import gguf_file, k_quants
from helpers.models import store
from methods.contract.errors import UserError

OTHERS = ("q2_k", "q3_k", "q5_k", "q6_k", "iq2_xs", "iq3_xxs", "iq3_s", "iq4_xs", "iq4_nl")
NAMES = ["q4_k", "iq2_xxs", *(pytest.param(n, marks=pytest.mark.full) for n in OTHERS)]
LAYER = "model.layers.0"


@pytest.fixture
def model(tmp_path):
    """A LLaMA in float16 with inputs of 256 and of 288, which K-quants do not fit, and its
    folder."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=256, intermediate_size=288, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).half().float().requires_grad_(False)
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


@pytest.mark.parametrize("weighed", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_are_those_of_llama_cpp(name, weighed, model, tmp_path):
    pytest.importorskip("llama_cpp")
    if name in ("iq2_xxs", "iq2_xs", "iq3_xxs") and not weighed:
        with pytest.raises(UserError, match="with an importance matrix alone"):
            parse_quantizer(f"{name}:importance=false")
        return
    source, folder = model
    gguf_file.write(folder, tmp_path / "f16.gguf", "f16")
    # Without the scores of a matrix llama.cpp ends the process for some types.
    importance = {
        t.name: torch.rand(int(t.shape[0])) + 0.1
        for t in GGUFReader(tmp_path / "f16.gguf").tensors
        if len(t.shape) == 2
    }
    kind = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}.get(name, name)
    given = importance if weighed else None
    llamacpp.quantize(tmp_path / "f16.gguf", tmp_path / "out.gguf", kind, 1, given, pure=True)
    tensors = {t.name: t for t in GGUFReader(tmp_path / "out.gguf").tensors}

    for theirs, ours in (
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("attn_output", "self_attn.o_proj"),
    ):
        weight = source.get_submodule(f"{LAYER}.{ours}").weight
        found = tensors[f"blk.0.{theirs}.weight"]
        form = k_quants.type_for(name, weight.shape[1])
        assert found.tensor_type.name == form
        scores = importance[f"blk.0.{theirs}.weight"] if weighed else None
        assert k_quants.quantize(weight, form, scores).tobytes() == found.data.tobytes(), theirs


def test_a_row_has_the_weights_and_bits_of_its_types(model, make_job, tmp_path):
    pytest.importorskip("llama_cpp")
    source, _ = model
    job = make_job(source, "dense", calibration=torch.randint(3, 64, (4, 16)))
    down, up = (
        source.get_submodule(f"{LAYER}.mlp.{n}_proj").weight.clone() for n in ("down", "up")
    )
    squares = []
    hook = source.get_submodule(f"{LAYER}.mlp.up_proj").register_forward_pre_hook(
        lambda _, args: squares.append(args[0].flatten(0, -2).square().mean(0))
    )
    with torch.no_grad():
        source(job.calibration)
    hook.remove()

    outcome = k_quants.Q4K().apply(source, job)

    expected = k_quants.dequantize(k_quants.quantize(up, "Q4_K", squares[0]), "Q4_K")
    found = outcome.model.get_submodule(f"{LAYER}.mlp.up_proj").weight
    got = float((found - expected).norm() / (up - expected).norm())
    assert got < 0.1, "the inputs of the layers before are rounded"
    sizes = {target: outcome.model.get_submodule(target).weight.shape for target in job.targets}
    bits = sum(out * width * (4.5 if width == 256 else 5.5) for out, width in sizes.values())
    counted = store(outcome.stored, tmp_path).count()
    given = counted.all_bits
    assert given == pytest.approx(bits / sum(out * width for out, width in sizes.values()))
    assert not torch.equal(outcome.model.get_submodule(f"{LAYER}.mlp.down_proj").weight, down)


def test_rows_that_no_type_fits_are_a_sentence():
    with pytest.raises(
        UserError, match="needs rows of a multiple of 32 weights, and these have 40"
    ):
        k_quants.type_for("q3_k", 40)


def test_zeros_save_nothing_in_a_file_of_llama_cpp(model, make_job, tmp_path):
    """Check with types without offsets, which keep zeros, that the bits are not those of a packed
    2:4."""
    pytest.importorskip("llama_cpp")
    source, _ = model
    job = make_job(source, "2:4", calibration=torch.randint(3, 64, (4, 16)))
    Magnitude().apply(source, job)
    outcome = k_quants.Q6K().apply(source, job)
    assert not any(
        job.pattern.violations(source.get_submodule(target).weight) for target in job.targets
    )
    counted = store(outcome.stored, tmp_path, "2:4").count()
    assert counted.is_packed and 6.5625 <= counted.all_bits <= 8.5 and not counted.values
