"""(2N-2):2N weights as windows of 2:4: the same product, and the same folder back."""

import json
from itertools import product

import pytest
import torch

from bench.formats.writing import export_model
from bench.inputs import loading
from bench.parts.packed24 import linear24
from bench.parts.packed24.folder24 import MANIFEST, Folder24
from bench.parts.packed24.packing import pack, unpack
from bench.parts.packed24.windows24 import (
    from_windows,
    group_of,
    to_windows,
    window_columns,
    window_width,
)
from helpers.runs import prune, tiny
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.contract.pattern import Pattern
from methods.model.folder import Folder


def draw(pattern, rows=7, groups=5):
    """Whole numbers, so that every sum is exact in any order."""
    parsed = Pattern.parse(pattern)
    first, second = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    weight = torch.randint(1, 9, (rows, groups * parsed.m), generator=first).float()
    return weight.where(parsed.keep(torch.rand(weight.shape, generator=second)), 0)


@pytest.mark.parametrize("pattern", ["4:6", "6:8", "14:16"])
def test_the_product_of_the_windows_is_that_of_the_weight(pattern):
    group = group_of(pattern)
    weight = draw(pattern)
    x = torch.randint(
        -9, 9, (3, weight.shape[1]), generator=torch.Generator().manual_seed(2)
    ).float()

    packed = pack(to_windows(weight, group))

    windows = unpack(packed)
    columns = window_columns(weight.shape[1], group)
    assert len(columns) == windows.shape[1] == window_width(weight.shape[1], group)
    assert windows.shape[1] / weight.shape[1] == pytest.approx(2 * (group // 2 - 1) / (group // 2))
    assert torch.equal(x[:, columns] @ windows.T, x @ weight.T)
    assert torch.equal(from_windows(windows, weight.shape[1], group), weight)


def test_all_groups_of_6_to_8_fit():
    """All 247 ways to have at most six non-zeros in eight weights."""
    masks = torch.tensor([mask for mask in product((0.0, 1.0), repeat=8) if sum(mask) <= 6])
    weight = masks * torch.arange(1.0, 9.0)

    windows = to_windows(weight, 8)

    assert ((windows.unflatten(1, (-1, 4)) != 0).sum(-1) <= 2).all()
    assert torch.equal((windows != 0).sum(1), (weight != 0).sum(1)), (
        "each non-zero is in one window"
    )
    assert torch.equal(from_windows(windows, 8, 8), weight)
    assert window_columns(8, 8).tolist() == [0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7]


def test_other_weights_and_patterns_are_refused():
    weight = draw("6:8")
    weight[4, 9:16] = 1
    with pytest.raises(
        UserError,
        match="up is not 6:8: row 4 has more than 6 non-zeros among weights 8 to 15: prune",
    ):
        to_windows(weight, 8, "up")
    with pytest.raises(UserError, match="6:8 needs a width that 8 divides"):
        to_windows(weight[:, :12], 8)
    weight[4, 8:] = torch.tensor([-0.0, *[0] * (weight.shape[1] - 9)])
    with pytest.raises(UserError, match=r"contains -0\.0"):
        pack(to_windows(weight, 8))
    for pattern in ("2:4", "4:8", "5:7", "50%", "dense", "98:100"):
        with pytest.raises(UserError, match="is not stored as windows of 2:4"):
            group_of(pattern)


@pytest.fixture
def pruned(tmp_path):
    return prune(tiny(tmp_path / "pruned"), pattern="6:8")


@pytest.mark.parametrize("values", [None, "int8"])
def test_export_goes_both_ways_and_runs(pruned, tmp_path, values):
    said = export_model(str(pruned), "packed24", tmp_path / "packed", windows="6:8", values=values)

    assert ("25.5 bits" in said) == (values is None), (
        "six of eight values of 32 bits, and a mask of 12 for 8 weights"
    )
    assert (
        "inputs to 1.5 times their number, and has 0.75 of the dense arithmetic, at most 1.33 "
        "times as fast" in said
    )
    entry = json.loads((tmp_path / "packed" / MANIFEST).read_text())["tensors"][
        "model.layers.0.mlp.up_proj.weight"
    ]
    assert entry["windows"] == 8
    export_model(str(tmp_path / "packed"), "hf", tmp_path / "dense")
    before, after = Folder(pruned), Folder(tmp_path / "dense")
    if values is None:
        assert all(torch.equal(before.tensor(name), after.tensor(name)) for name in before)
    ids = torch.arange(12)[None]
    wanted = loading.load(tmp_path / "dense", Compute())(ids).logits
    model = linear24.load(tmp_path / "packed", Compute(), engine="reference")
    assert torch.allclose(model(ids).logits, wanted, atol=1e-4)
    shapes = {name: tuple(before.tensor(name).shape) for name in before}
    assert Folder24(tmp_path / "packed").shapes() == shapes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "hf", "--windows", "6:8"], "--windows 6:8 needs --format packed24"),
        (
            ["--format", "packed24", "--windows", "6:8", "--values", "int4"],
            "--windows 6:8 has no int4",
        ),
    ],
)
def test_bad_options_are_one_sentence(pruned, tmp_path, refused, options, said):
    assert said in refused("export", tiny(tmp_path / "tiny") if "14:16" in options else pruned,
                           *options, "--out", tmp_path / "out")  # fmt: skip
    assert not (tmp_path / "out").exists()
