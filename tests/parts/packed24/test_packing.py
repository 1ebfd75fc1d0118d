"""The packing of one weight: bit for bit, counted, and refused in a sentence where it cannot be."""

import numpy as np
import pytest
import torch

from bench.parts.packed24 import cpu24
from bench.parts.packed24.integers24 import BITS, group_size, pack_codes, pack_rounded
from bench.parts.packed24.packing import (
    CODES,
    FLOAT_DTYPES,
    PIECE_WEIGHTS,
    check_mask,
    pack,
    row_pieces,
    unpack,
)
from methods.contract.codec import StoredWeight
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern
from methods.workshop.quantizing.grid_codec import GridCodec
from methods.workshop.quantizing.integers import integers_of

SHAPES = [(1, 4), (3, 12), (33, 260)]


def sparse(rows, width, dtype=torch.float32, seed=0):
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return torch.where(Pattern(2, 4).keep(weight.abs()), weight, 0).to(dtype)


def naive(weight):
    """Values and mask by the definition, a weight at a time."""
    values, mask = [], []
    for row in weight.tolist():
        kept = []
        for g in range(0, len(row), 4):
            held = [j for j in range(4) if row[g + j] != 0]
            spare = [j for j in range(4) if j not in held]
            kept += [g + j for j in sorted(held + spare[: 2 - len(held)])]
        values.append([row[j] for j in kept])
        mask.append(np.packbits([j in kept for j in range(len(row))], bitorder="little").tolist())
    return values, mask


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_packs_as_defined_and_comes_back_bit_for_bit(shape, dtype):
    weight = sparse(*shape, dtype)
    weight[0, :4] = 0  # a group with none
    weight[-1, -4:] = torch.tensor([0, 0, 0, 1.5])  # and one with one
    packed = pack(weight)
    assert (packed.values.tolist(), packed.mask.tolist()) == naive(weight)
    check_mask(packed.mask, packed.width, "w")
    back = unpack(packed)
    assert back.dtype == dtype and torch.equal(back, weight)
    assert not (
        back.view({2: torch.int16, 4: torch.int32}[dtype.itemsize]) == torch.iinfo(torch.int16).min
    ).any()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_extremes_come_back(dtype):
    info = torch.finfo(dtype)
    smallest = torch.tensor([1], dtype={2: torch.int16, 4: torch.int32}[dtype.itemsize]).view(
        dtype
    )[0]  # subnormal
    row = [info.max, 0, 0, info.min, 0, smallest, -smallest, 0, 0, 0, info.tiny, -info.tiny]
    weight = torch.stack([torch.as_tensor(x).to(dtype) for x in row])[None]
    assert torch.equal(unpack(pack(weight)), weight)
    weight[0, 0], weight[0, 3] = float("inf"), float("nan")  # a packer has no opinion
    assert torch.equal(unpack(pack(weight)).view(torch.uint8), weight.view(torch.uint8))


class OnCard(torch.Tensor):
    """Numpy reads it only after it was moved."""

    def numpy(self):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("kind", ["float", *BITS])
def test_a_weight_on_a_card_is_packed_on_the_cpu(kind):
    weight = sparse(8, 64, torch.bfloat16)
    packed, wanted = (
        pack(w) if kind == "float" else pack_rounded(w, kind)
        for w in (weight.as_subclass(OnCard), weight)
    )
    assert torch.equal(unpack(packed), unpack(wanted))
    assert all(type(part) is torch.Tensor for part in packed.parts().values())


def test_pieces_and_threads_do_not_matter():
    """Each row is packed on its own, so a row alone, which is one piece, is packed the same."""
    width = PIECE_WEIGHTS // 8
    weight = sparse(20, width, torch.bfloat16)
    assert len(list(row_pieces(20, width))) == 3
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        parts = pack(weight)
        assert torch.equal(unpack(parts), weight)
    finally:
        torch.set_num_threads(before)
    rows = [pack(row[None]) for row in weight]
    assert torch.equal(parts.values, torch.cat([r.values for r in rows]))
    assert torch.equal(parts.mask, torch.cat([r.mask for r in rows]))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda w: w.index_put_((torch.tensor(70), torch.tensor([4, 5, 6])), torch.tensor(1.0)),
            r"layer is not 2:4: row 70 .* weights 4 to 7",
        ),
        (lambda w: w * -1, r"layer contains -0\.0"),
        (lambda w: w[:, :6], r"layer is \[80, 6\].*4 divides"),
        (lambda w: w[:, :0], r"4 divides"),
        (lambda w: w[0], r"layer is float32 \[8192\]: packed24 needs a matrix"),
        (lambda w: w.double(), r"layer is float64"),
    ],
)
def test_what_cannot_be_packed_is_refused(spoil, sentence):
    """Row 70 is in the last of three pieces."""
    with pytest.raises(UserError, match=sentence):
        pack(spoil(sparse(80, PIECE_WEIGHTS // 32)), "layer")


def test_a_mask_that_is_none_is_refused():
    good = pack(sparse(4, 12)).mask
    check_mask(good, 12, "w")
    for code in set(range(16)) - set(CODES.tolist()):
        for row, byte, shift in ((0, 0, 0), (3, 0, 4), (2, 1, 0)):
            bad = good.clone()
            bad[row, byte] = int(bad[row, byte]) & ~(15 << shift) | code << shift
            with pytest.raises(UserError, match="mask of w"):
                check_mask(bad, 12, "w")
    past = good.clone()
    past[0, 1] |= 0x30  # a group past the width
    with pytest.raises(UserError, match="mask of w"):
        check_mask(past, 12, "w")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("kind", "group", "packed_as"),
    [("int8", 256, 256), ("int4", 128, 128), ("int4", 256, 128), ("int4", 8, 8)],
)
def test_stored_integers_come_back_bit_for_bit(kind, group, packed_as, dtype):
    """Groups that are a multiple of the kernel's are packed in its own."""
    codec = GridCodec("integer", BITS[kind], group)
    stored = StoredWeight(codec, codec.encode(sparse(24, 256)))
    weight = stored.decode().to(dtype)
    packed = pack_codes(weight, integers_of(stored))
    assert torch.equal(unpack(packed), weight) and packed.scales.shape == (24, 256 // packed_as)
    assert cpu24.supports(packed) == (packed_as != 8)


@pytest.mark.parametrize("kind", BITS)
def test_other_weights_are_rounded_to_the_nearest(kind):
    weight = sparse(16, 192)
    rounded = pack_rounded(weight, kind)
    back = unpack(rounded)
    step = rounded.scales.float().repeat_interleave(group_size(kind, 192), 1)
    error = (back - weight).abs() / step
    assert error.max() < 1.01 and (error <= 0.5001).float().mean() > 0.98  # the ends are clipped
    assert (back[weight == 0] == 0).all()
    assert torch.equal(unpack(pack(back.clone())), back)  # no -0.0, and still 2:4


def test_integers_stand_for_no_infinity():
    weight = sparse(4, 8)
    weight[weight > 0] = float("inf")
    with pytest.raises(UserError, match="layer contains NaN or infinity"):
        pack_rounded(weight, "int8", "layer")
