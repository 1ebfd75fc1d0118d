"""Stored weights: what is written comes back bit for bit, takes the bytes that its bits say, or is
refused in a sentence."""

import math
from dataclasses import dataclass, replace
from functools import partial
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.formats import stored
from bench.quantizers.libraries import AffineCodec
from helpers.models import store
from methods.contract.codec import FloatCodec, StoredWeight
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern
from methods.model.folder import Writer
from methods.workshop.quantizing.grid_codec import GridCodec
from methods.workshop.quantizing.grids import (
    Float8,
    Integer,
    Microscaling,
    NormalFloat4,
    NvFloat4,
    round_,
)

GRIDS = (
    *map(Integer, (3, 4, 5, 8)), Float8(), NormalFloat4(), Microscaling(4), Microscaling(8),
    NvFloat4(),
)  # fmt: skip
FOUR = GridCodec("integer", 4, 8)


@given(st.integers(1, 8), st.lists(st.integers(0, 255)), st.sampled_from([8, stored.PIECE]))
def test_codes_are_a_stream_of_bits(bits, numbers, piece):
    codes = [number % 2**bits for number in numbers]
    whole = sum(code << i * bits for i, code in enumerate(codes))
    with mock.patch.object(stored, "PIECE", piece):
        stream = stored.pack_bits(torch.tensor(codes, dtype=torch.uint8), bits)
        assert bytes(stream.tolist()) == whole.to_bytes(math.ceil(len(codes) * bits / 8), "little")
        assert stored.unpack_bits(stream, bits, (len(codes),)).tolist() == codes


@pytest.mark.parametrize("pattern", ["dense", "2:4"])
@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_every_grid_comes_back_and_takes_the_bytes_of_its_bits(
    grid, pattern, tmp_path, monkeypatch
):
    """Values of pruned weights are left out, and the mask counts. One weight is zero, and the codes
    of one fill no whole bytes."""
    monkeypatch.setattr(stored, "Writer", partial(Writer, shard_bytes=100))
    codec = GridCodec.of(grid, 8)
    weights = {"a": torch.randn(12, 16), "b": torch.zeros(6, 8), "c": torch.randn(5, 24)}
    for weight in weights.values():
        weight.masked_fill_(~Pattern.parse(pattern).keep(weight.abs()), 0)

    folder = store(
        {name: StoredWeight(codec, codec.encode(w)) for name, w in weights.items()},
        tmp_path,
        pattern,
    )

    values = others = 0
    for name, weight in weights.items():
        round_(weight, grid, 8)
        assert torch.equal(folder[name].decode().view(torch.int32), weight.view(torch.int32)), name
        count = weight.numel()
        values += math.ceil(count * grid.bits / (16 if pattern == "2:4" else 8))
        others += (count // 8 * grid.scale_bits + grid.tensor_bits) // 8 + (
            count // 8 if pattern == "2:4" else 0
        )
    counted = folder.count()
    found = (counted.weights, counted.values, counted.others)
    assert found == (12 * 16 + 6 * 8 + 5 * 24, values, others)
    assert counted.is_packed == (pattern == "2:4")
    assert len(list(tmp_path.rglob("*.safetensors"))) > 1


@pytest.mark.parametrize("pattern", ["dense", "2:4", "50%"])
def test_floats_and_zero_points_come_back(pattern, tmp_path):
    weight = torch.randn(8, 16)
    weight.masked_fill_(~Pattern.parse(pattern).keep(weight.abs()), 0)
    affine = {
        "codes": torch.where(weight == 0, 7, torch.randint(16, weight.shape)).to(torch.uint8),
        "scales": torch.rand(8, 2).half(),
        "zeros": torch.full((8, 2), 7.0).half(),
    }
    weights = {
        "floats": StoredWeight(FloatCodec(), {"values": weight.bfloat16()}),
        "codes": StoredWeight(AffineCodec(4, 8), affine),
        "own": StoredWeight(FloatCodec(), {"values": torch.ones(8, 16)}, Pattern()),
    }

    folder = store(weights, tmp_path, pattern)

    assert all(torch.equal(folder[name].decode(), one.decode()) for name, one in weights.items())
    share, mask = (2, 2 * 16) if pattern == "2:4" else (1, 0)
    assert folder.count().values == (256 + 64) // share + 512 and folder.count().others == 64 + mask


@dataclass(frozen=True)
class Unknown(FloatCodec):
    name = "unknown"


@dataclass(frozen=True)
class Other(FloatCodec):
    """A class that takes the name of another."""


ONES = torch.ones(4, 8)
CODES = FOUR.encode(torch.randn(4, 8))


@pytest.mark.parametrize(
    ("codec", "parts", "said"),
    [
        (Unknown(), {"values": ONES}, "no installed package has codec 'unknown'"),
        (Other(), {"values": ONES}, "codec 'float' is not Other: register that class"),
        (replace(FOUR, group=torch.tensor(8)), CODES, "a field that JSON does not give back"),
        (FOUR, CODES | {"codes": torch.full_like(CODES["codes"], 16)},
         "the number 16, which its codec stores in 4 bits"),
        (FOUR, CODES | {"codes": CODES["codes"].int()}, r"x\.codes is int32 of 4 bits"),
        (FloatCodec(), {"values": ONES, "mask": ONES}, "a part named 'mask'"),
    ],
)  # fmt: skip
def test_what_another_codec_would_be_made_of_is_refused(codec, parts, said, tmp_path):
    with pytest.raises(UserError, match=said):
        stored.write(tmp_path, {"x": StoredWeight(codec, parts)}, {"x": (4, 8)}, Pattern())


def test_weights_may_share_a_part(tmp_path):
    one = StoredWeight(FloatCodec(), {"values": ONES})
    folder = store({"x": one, "y": one}, tmp_path)
    assert folder.count().values == 2 * ONES.nbytes
