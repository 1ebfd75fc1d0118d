"""The codec of packed weights: exact, stored by the runner's folder, counted, and no liar's
mask."""

import pytest
import torch

from bench.formats import stored
from bench.formats.stored import StoredFolder
from bench.parts.packed24.codec import Packed24Codec
from methods.contract.codec import StoredWeight
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern


def sparse(dtype):
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    return torch.where(Pattern(2, 4).keep(weight.abs()), weight, 0).to(dtype)


@pytest.mark.parametrize(
    ("kind", "dtype", "bits"),
    [
        ("float", torch.bfloat16, 9),
        ("float", torch.float32, 17),
        ("int8", torch.bfloat16, 5 + 16 / 128),
        ("int4", torch.bfloat16, 3 + 16 / 128),
    ],
)
def test_a_stored_weight_is_decoded_exactly_and_counted(tmp_path, kind, dtype, bits):
    weight = sparse(dtype)
    codec = Packed24Codec(kind, 128, str(dtype).removeprefix("torch."))
    one = StoredWeight(codec, codec.encode(weight))
    decoded = one.decode()
    if kind == "float":
        assert torch.equal(decoded, weight.float())
    stored.write(tmp_path, {"a": one}, {"a": (16, 128)}, Pattern(2, 4))

    again = StoredFolder(tmp_path)
    assert again.codec("a") == codec and torch.equal(again["a"].decode(), decoded)
    counted = again.count()
    assert counted.all_bits == bits and counted.is_packed
    assert counted.form == f"packed24 of {kind} values"


def test_a_mask_that_keeps_other_numbers_is_refused():
    codec = Packed24Codec("float", 128, "bfloat16")
    parts = codec.encode(sparse(torch.bfloat16))
    parts["kept"][0, 0] = 0xFF
    with pytest.raises(UserError, match="does not keep two of every four"):
        codec.decode(parts)
