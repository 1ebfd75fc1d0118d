"""The formats of compressed-tensors give the weights that a naive packer put in."""

from functools import partial

import pytest
import torch

from bench.formats.opening import open_checkpoint
from bench.parts.compressed_tensors.codec import CompressedTensorsCodec
from bench.results.folder_check import check_folder
from helpers import packers, runs
from methods.workshop.quantizing.grids import FP4

GROUPED = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": packers.GROUP,
           "symmetric": False}  # fmt: skip
ROUNDED = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}


PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
OTHER = {"weights": GROUPED | {"group_size": 32}}
CASES = {
    "pack-quantized, 3 bits": (
        partial(packers.pack_quantized, bits=3),
        PACKED | {"config_groups": {"g": {"weights": GROUPED | {"num_bits": 3}}}},
    ),
    "pack-quantized": (
        packers.pack_quantized,
        PACKED | {"config_groups": {"other": OTHER, "g": {"weights": GROUPED}}},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_folder_is_read_as_its_packer_stored_it(name, tmp_path):
    packers.require_read(tmp_path / "m", *CASES[name])


@pytest.mark.parametrize("prefix", ["weight.", ""])
def test_a_masked_folder_is_packed(prefix, tmp_path):
    about = {
        "quant_method": "compressed-tensors",
        "sparsity_config": {"format": "sparse-24-bitmask"},
    }
    stored = packers.folder(tmp_path / "m", partial(packers.halves_of_four, prefix=prefix), about)

    opened = open_checkpoint(tmp_path / "m")

    assert opened.is_packed and not opened.is_quantized
    assert all(torch.equal(opened.tensor(name), weight) for name, weight in stored.items())


def test_kept_values_of_one_byte_are_spread_and_must_be_as_many_as_the_mask_has():
    codec = CompressedTensorsCodec({"sparsity_config": {"format": "sparse-24-bitmask"}})
    weight = (torch.randn(4, 16) * (torch.arange(16) % 4 < 2)).to(torch.float8_e4m3fn)
    parts, _ = packers.bitmask(weight.float())
    parts["weight.compressed"] = parts["weight.compressed"].to(torch.float8_e4m3fn)
    decoded = codec.decode(parts)
    assert codec.dtype(parts) == weight.dtype and torch.equal(decoded, weight.float())
    with pytest.raises(ValueError, match="a mask of 32 weights for 24"):
        codec.decode(parts | {"weight.compressed": parts["weight.compressed"][:3]})


@pytest.mark.parametrize("kind", ["nvfp4", "mxfp4"])
def test_four_bit_floats(kind):
    codes = torch.randint(0, 16, (4, 64), dtype=torch.uint8)
    table = torch.tensor([*FP4, *(-x for x in FP4)])
    parts = {"weight_packed": codes[:, ::2] | codes[:, 1::2] << 4}
    group = {"nvfp4": 16, "mxfp4": 32}[kind]
    if kind == "nvfp4":
        scale, shared = torch.rand(4, 4).to(torch.float8_e4m3fn), torch.tensor([7.0])
        parts |= {"weight_scale": scale, "weight_global_scale": shared}
        wide = scale.float() / shared
    else:
        parts["weight_scale"] = torch.randint(120, 130, (4, 2), dtype=torch.uint8)
        wide = 2.0 ** (parts["weight_scale"].float() - 127)
    weights = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": group}
    about = {"format": f"{kind}-pack-quantized", "config_groups": {"g": {"weights": weights}}}

    found = CompressedTensorsCodec(about).decode(parts)

    expected = table[codes.long()] * wide.repeat_interleave(group, 1)
    assert torch.equal(found, expected.bfloat16())


@pytest.mark.parametrize(
    ("strategy", "shape"), [("channel", (8, 1)), ("tensor", (1,)), ("block", (2, 2))]
)
def test_scales_of_a_row_of_a_tensor_and_of_blocks(strategy, shape):
    values, scale = torch.randn(8, 16).to(torch.float8_e4m3fn), torch.rand(shape)
    weights = {"num_bits": 8, "type": "float", "strategy": strategy}
    weights |= {"block_structure": [4, 8]} if strategy == "block" else {}
    about = {"format": "float-quantized", "config_groups": {"g": {"weights": weights}}}

    found = CompressedTensorsCodec(about).decode({"weight": values, "weight_scale": scale})

    wide = scale.repeat_interleave(4, 0).repeat_interleave(8, 1) if strategy == "block" else scale
    assert torch.equal(found, values.float() * wide)


def test_a_dense_weight_beside_a_scale_is_refused():
    """llm-compressor writes it with save_compressed=False. A product with the scale is another
    model."""
    codec, parts = CompressedTensorsCodec({"format": "dense"}), {"weight": torch.ones(2, 2)}
    assert torch.equal(codec.decode(parts), parts["weight"])
    with pytest.raises(ValueError, match="stored dense has a scale: save it compressed"):
        codec.decode(parts | {"weight_scale": torch.ones(2, 1)})


def test_a_group_size_that_two_config_groups_may_mean_is_not_guessed():
    kinds = [{"weights": GROUPED | {"group_size": size}} for size in (64, 48)]
    codec = CompressedTensorsCodec({"config_groups": dict(zip("ab", kinds, strict=True))})
    with pytest.raises(ValueError, match="2 groups of 96 inputs may be of 64 or of 48"):
        codec.decode(
            {"weight": torch.ones(2, 96, dtype=torch.int8), "weight_scale": torch.ones(2, 2)}
        )


GROUPS = (
    ({"g": {"weights": GROUPED, "input_activations": {"num_bits": 8, "type": "int"}}}, "static"),
    (
        {"a": {"weights": GROUPED, "input_activations": ROUNDED}, "b": {"weights": GROUPED}},
        "several input_activations",
    ),
    (
        {"a": {"weights": GROUPED | {"num_bits": 8}}, "b": {"weights": GROUPED}},
        "several kinds of weights",
    ),
    ({"g": {"weights": GROUPED, "output_activations": ROUNDED}}, "output_activations"),
    (3, "is invalid"),
)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"format": "marlin-24"}, "'marlin-24'"),
        ({"transform_config": {"a": 1}}, "transform_config"),
        *(({"config_groups": groups}, said) for groups, said in GROUPS),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(about, said, tmp_path):
    about = {"quant_method": "compressed-tensors"} | about
    assert said in packers.refusal(tmp_path / "m", about)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("weight_scale", lambda t: None, "are a weight of int32"),
        ("weight_scale", lambda t: t.T.contiguous(), "for 128 rows"),
        ("weight_shape", lambda t: t - 8, "[128, 120], not a float matrix [128, 128]"),
    ],
)
def test_parts_that_do_not_fit_are_refused(part, change, said, tmp_path):
    packers.folder(tmp_path / "m", *CASES["pack-quantized"])
    assert said in packers.damage(tmp_path / "m", part, change)


@pytest.mark.parts("folders")
def test_check_counts_the_bits_of_a_packed_folder_once(tmp_path):
    about = {
        "quant_method": "compressed-tensors",
        "sparsity_config": {"format": "sparse-24-bitmask"},
    }
    packers.folder(tmp_path / "m", partial(packers.halves_of_four, prefix=""), about)
    label = f"folder:path={tmp_path / 'm'}"

    got = runs.measured(tmp_path / "r", only=(label,), methods=(label,), measures=("size",))

    assert "2:4" in {r.identity.pattern for r in got.values()}
    assert check_folder(tmp_path / "r").problems == ()
