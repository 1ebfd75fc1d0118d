"""packed48: exact, stored by the runner's folder, counted, and no other pattern."""

from itertools import combinations

import pytest
import torch

from bench.formats import stored
from bench.formats.opening import open_checkpoint
from bench.formats.stored import StoredFolder
from bench.formats.writing import export_model
from bench.parts.packed48.codec import PAIRS, pack
from bench.verify import name_pattern
from helpers.runs import prune, tiny
from methods.contract.codec import FloatCodec, StoredWeight
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern
from methods.model.folder import Folder
from methods.model.targets import find_targets
from methods.workshop.quantizing.weight_formats import INT4, NVFP4


def sparse(pattern=PAIRS):
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    return torch.where(pattern.keep(weight.abs()), weight, 0)


def stored_as(form, weight):
    if form is None:
        return StoredWeight(FloatCodec(), {"values": weight.bfloat16()})
    codec = form.under(PAIRS).codec(weight.shape[1], None, "x")
    return StoredWeight(codec, codec.encode(weight))


@pytest.mark.parametrize(
    ("form", "bits"),
    [
        (None, 8.5),
        (INT4, 2.5 + 16 / 128),
        # A scale of 8 bits for 32 weights, and one of 32 bits for the 16 x 128.
        (NVFP4, 2.5 + 8 / 32 + 32 / 2048),
    ],
    ids=["bfloat16", "int4", "nvfp4"],
)
def test_a_weight_is_decoded_exactly_and_counted(tmp_path, form, bits):
    one = stored_as(form, sparse())
    packed = pack(one)
    assert torch.equal(packed.decode(), one.decode())
    stored.write(tmp_path, {"a": packed}, {"a": (16, 128)}, Pattern())

    again = StoredFolder(tmp_path)
    assert torch.equal(again.weight("a"), one.decode())
    assert again.count().all_bits == bits and again.count().is_packed
    # The folder of a run stores a mask of as many bits.
    stored.write(tmp_path / "run", {"a": one}, {"a": (16, 128)}, PAIRS)
    assert StoredFolder(tmp_path / "run").count().all_bits == bits
    assert torch.equal(StoredFolder(tmp_path / "run").weight("a"), one.decode())


def test_the_indices_are_the_metadata_of_sparse_tensor_cores():
    """PTX ISA, 9.7.14.6.1: the six values that mean something, by the two pairs that are kept."""
    metadata = (0b0100, 0b1000, 0b1100, 0b1001, 0b1101, 0b1110)
    weight = torch.zeros(6, 8)
    for row, kept in zip(weight, combinations(range(4), 2), strict=True):
        row.view(4, 2)[list(kept)] = 1.0
    packed = pack(StoredWeight(FloatCodec(), {"values": weight}))
    assert tuple(stored.pack_bits(packed.parts["pairs"], 2).tolist()) == (
        metadata[0] | metadata[1] << 4, metadata[2] | metadata[3] << 4,
        metadata[4] | metadata[5] << 4,
    )  # fmt: skip


def test_what_is_no_pairs_is_refused():
    with pytest.raises(UserError, match="layer is not pairs:4:8, which keeps two of the four"):
        pack(stored_as(None, sparse(Pattern.parse("2:4"))), "layer")
    packed = pack(stored_as(None, sparse()))
    packed.parts["pairs"].fill_(1)
    with pytest.raises(UserError, match="indices of a packed48 weight do not rise"):
        packed.decode()


def test_an_export_is_read_again_and_another_pattern_refused(tmp_path):
    pruned = prune(tiny(tmp_path / "pruned"), pattern="pairs:4:8")
    said = export_model(str(pruned), "packed48", tmp_path / "packed")
    assert "16.5 bits per weight" in said
    before, after = Folder(pruned), open_checkpoint(tmp_path / "packed")
    assert set(before) == set(after)
    assert all(torch.equal(before.tensor(name), after.tensor(name)) for name in before)
    assert name_pattern(map(after.weight, find_targets(after.config, after.shapes())))[0] == PAIRS

    with pytest.raises(UserError, match="is not 2:4: row"):
        export_model(str(pruned), "packed24", tmp_path / "packed24")
    two_of_four = prune(tiny(tmp_path / "other"), pattern="2:4")
    with pytest.raises(UserError, match="is not pairs:4:8"):
        export_model(str(two_of_four), "packed48", tmp_path / "refused")
