"""The layouts of GPTQ and AWQ give the weights that a naive packer put in."""

import pytest
import torch
from torch import Tensor

from bench.parts.gptq.codec import AwqCodec, GptqCodec
from helpers import packers


def zeros_themselves(parts, dense):
    """Version 1 with z in place of z - 1: each of the eight values of a word is one more."""
    return parts | {"qzeros": parts["qzeros"] + 0x11111111}, dense


FOUR = {"bits": 4, "group_size": 16}
AUTO_ROUND = FOUR | {"quant_method": "auto-round"}
CASES = {
    "gptq-3": (lambda w: packers.gptq(w, 3), FOUR | {"quant_method": "gptq", "bits": 3}),
    "awq": (packers.awq, FOUR | {"quant_method": "awq", "version": "gemm"}),
    "auto-round": (
        lambda w: packers.gptq(w, 4),
        AUTO_ROUND | {"packing_format": "auto_round:auto_gptq"},
    ),
    "auto-round for GPTQModel": (
        lambda w: zeros_themselves(*packers.gptq(w, 4)),
        AUTO_ROUND | {"packing_format": "auto_round:gptqmodel"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_folder_is_read_as_its_packer_stored_it(name, tmp_path):
    packers.require_read(tmp_path / "m", *CASES[name])


def test_inputs_in_another_order_keep_their_groups():
    weight, order = torch.randn(32, 64), torch.randperm(64) // packers.GROUP
    parts, dense = packers.gptq(weight, 4, order)
    assert torch.equal(GptqCodec({"bits": 4, "group_size": 16}).decode(parts).half(), dense)


def test_version_2_stores_the_zero_itself():
    weight = torch.randn(32, 64)
    parts, dense = packers.gptq(weight, 4)
    about = {"bits": 4, "group_size": 16, "checkpoint_format": "gptq_v2"}

    step = parts["scales"].T.float().repeat_interleave(16, 1)
    assert torch.allclose(GptqCodec(about).decode(parts).float(), dense.float() + step, atol=2e-3)


@pytest.mark.parametrize("size", [8, 32])
def test_a_layer_with_groups_of_another_size_is_refused(size):
    parts, _ = packers.gptq(torch.randn(32, 64), 4)
    del parts["g_idx"]
    with pytest.raises(ValueError, match=f"64 inputs have {64 // size} groups of {size}, not 4"):
        GptqCodec({"bits": 4, "group_size": size}).decode(parts)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"quant_method": "gptq", "bits": 5}, "bits=5"),
        ({"quant_method": "gptq", "bits": 4}, "no quantized weight"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "'gemv'"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(about, said, tmp_path):
    assert said in packers.refusal(tmp_path / "m", about)


@pytest.mark.parametrize(
    ("case", "part", "change", "said"),
    [
        ("gptq-3", "scales", lambda t: t[:1, :5].contiguous(), "do not fit together"),
        ("gptq-3", "scales", Tensor.int, "are a weight of int32"),
        ("awq", "scales", lambda t: t.to(torch.float8_e4m3fn), "are a weight of float8_e4m3fn"),
    ],
)
def test_parts_that_do_not_fit_are_refused(case, part, change, said, tmp_path):
    packers.folder(tmp_path / "m", *CASES[case])
    assert said in packers.damage(tmp_path / "m", part, change)


def stored(bits):
    codes = torch.randint(2**bits, (32, 64), dtype=torch.uint8)
    return codes, (torch.rand(32, 4) + 1).half().float()


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_gptq_is_packed_as_a_naive_packer_does(bits):
    codes, scales = stored(bits)
    codec = GptqCodec({"bits": bits, "group_size": 16})
    parts = codec.encode(codes, scales, "x")

    assert parts["qweight"].T.tolist() == [packers.words(row, bits) for row in codes.tolist()]
    zero = packers.words([2 ** (bits - 1) - 1] * 32, bits)
    assert parts["qzeros"].tolist() == [zero] * 4
    assert torch.equal(parts["scales"].float(), scales.T)
    assert parts["g_idx"].tolist() == [i // 16 for i in range(64)]
    expected = (codes.float() - 2 ** (bits - 1)) * scales.repeat_interleave(16, 1)
    assert torch.equal(codec.decode(parts), expected)


def test_awq_is_packed_as_a_naive_packer_does():
    codes, scales = stored(4)
    codec = AwqCodec({"bits": 4, "group_size": 16})
    parts = codec.encode(codes, scales, "x")

    lanes = codes.T.int().unflatten(1, (-1, 8))[..., list(packers.AWQ_LANES)].flatten(1)
    assert parts["qweight"].tolist() == [packers.words(row, 4) for row in lanes.tolist()]
    assert parts["qzeros"].tolist() == [packers.words([8] * 32, 4)] * 4
    expected = (codes.float() - 8) * scales.repeat_interleave(16, 1)
    assert torch.equal(codec.decode(parts), expected)
