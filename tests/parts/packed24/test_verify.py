"""`bench verify` of packed24 folders: as the dense ones that they unpack to."""

import pytest
from safetensors.torch import load_file, save_file

from helpers import runs

pytestmark = pytest.mark.usefixtures("cache", "in_tmp_path")


@pytest.mark.parametrize("values", [(), ("--values", "int4")])
def test_a_packed_folder_counts_as_the_dense_one(tmp_path, cli, values):
    """With some linears left dense, of which one breaks the pattern."""
    folder = runs.prune(runs.tiny(tmp_path / "m"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"][0, :4] = 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    packing = ("--format", "packed24", *values, "--exclude", "*.q_proj", "--out", "p")
    code, _, err = cli("export", folder, *packing, "--exclude", "*.kk_proj")
    assert (code, f"linear of {folder} matches '*.kk_proj'" in err) == (2, True)
    assert cli("export", folder, *packing)[0] == 0
    assert cli("export", "p", "--format", "hf", "--out", "d")[0] == 0
    for more, said in {
        (): "check failed: 2:4 does not hold in 1 group of p",
        ("--include", "*.mlp.*"): "2:4 holds in 12 linears of p",
        ("--exclude", "*.q_proj", "--pattern", "1:4"): " groups of p",
    }.items():
        code, packed, err = cli("verify", "p", "--json", *more)
        assert (code, packed) == cli("verify", "d", "--json", *more)[:2]
        assert err.endswith(f"{said}\n")


def test_a_family_that_stores_weights_transposed(make, keep_as, cli, tmp_path):
    folder = runs.prune(keep_as(make("gpt2"), tmp_path / "d"))
    packing = ("--format", "packed24", "--out", "p", "--exclude", "*.c_attn")
    assert cli("export", folder, *packing)[0] == 0

    assert cli("verify", "p", "--json")[:2] == cli("verify", folder, "--json")[:2]
    assert cli("verify", "p")[0] == 0
