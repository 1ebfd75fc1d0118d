"""bench verify: any safetensors folder, and exit codes a script can go by."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.verify import detect_pattern
from helpers import runs
from helpers.models import job_for
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern
from methods.model.folder import Folder

TWO_OF_FOUR = Pattern(2, 4)
TARGET = "model.layers.1.mlp.up_proj"


pytestmark = pytest.mark.usefixtures("cache", "in_tmp_path")


@pytest.fixture
def pruned(tmp_path):
    """tiny, 2:4, after a change of its tensors."""

    def make(change=lambda tensors: None, pattern=TWO_OF_FOUR, **config):
        folder = runs.tiny(tmp_path / "m", **config)
        tensors = load_file(folder / "model.safetensors")
        for name, weight in tensors.items():
            if "_proj" in name:
                weight.masked_fill_(~pattern.keep(weight.abs()), 0)
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


def rows(out):
    return {r["layer"]: r for r in json.loads(out)}


def test_holds(pruned, cli):
    code, out, err = cli("verify", folder := pruned(), "--json")
    got = rows(out)

    assert (code, err) == (0, f"bench: 2:4 holds in 28 linears of {folder}\n")
    assert len(got) == 29
    counts = {"weights": 45_056, "zeros": 22_528, "negative_zeros": 0, "violated_groups": 0}
    assert got[TARGET] == {"layer": TARGET} | counts
    assert got["total"]["weights"] == 802_816 and got["total"]["zeros"] == 401_408


def test_breaks(pruned, cli):
    """Weights too many in three groups of one layer, and in all of another."""

    def fill(tensors):
        weight = tensors[TARGET + ".weight"]
        for row in (0, 5, 9):
            weight[row, :4] = 1
        tensors[TARGET.replace("up", "gate") + ".weight"].fill_(1)

    code, out, err = cli("verify", folder := pruned(fill), "--json")

    assert code == 1
    assert err == f"bench: check failed: 2:4 does not hold in 11,267 groups of {folder}\n"
    found = {k: n for k, r in rows(out).items() if (n := r["violated_groups"])}
    assert found == {TARGET: 3, TARGET.replace("up", "gate"): 11_264, "total": 11_267}


@pytest.mark.parametrize(("group", "code"), [((1, 0, -0.0, 0), 0), ((1, 1, -0.0, 0), 1)])
def test_negative_zeros_are_counted_and_have_a_way_out_if_they_break_the_pattern(
    pruned, cli, group, code
):
    folder = pruned(lambda t: t[TARGET + ".weight"][0, :4].copy_(torch.tensor(group)))
    way_out = (
        f"2:4 does not hold in 1 group of {folder}. -0.0 is in 1 weight, and",
        f"--method folder:path={folder}",
    )

    found, out, err = cli("verify", folder, "--json")

    assert (found, rows(out)["total"]["negative_zeros"]) == (code, 1)
    assert [words in err for words in way_out] == [bool(code)] * 2


def test_any_dtype(pruned, cli):
    folder = pruned(
        lambda tensors: tensors.update({n: t.to(torch.float8_e4m3fn) for n, t in tensors.items()})
    )

    assert cli("verify", folder)[0] == 0


def test_other_patterns(pruned, cli):
    folder = pruned(pattern=Pattern(1, 4))

    codes = {"1:4": 0, "2:4": 0, "1:8": 1, "75%": 0, "80%": 1, "dense": 0}
    assert {pattern: cli("verify", folder, "--pattern", pattern)[0] for pattern in codes} == codes


def test_only_some_linears(pruned, cli):
    folder = pruned(lambda t: t[TARGET + ".weight"].fill_(1))

    assert cli("verify", folder)[0] == 1
    assert cli("verify", folder, "--exclude", TARGET)[0] == 0
    assert cli("verify", folder, "--include", "*.mlp.up_proj,*.q_proj")[0] == 1
    assert cli("verify", "tiny")[0] == 1, "an alias"
    for flag in ("--include", "--exclude"):
        code, _, err = cli("verify", folder, flag, "*.q_proj,*.kk_proj")
        assert (code, f"linear of {folder} matches '*.kk_proj'" in err) == (2, True)


@pytest.mark.parametrize("pattern", ["1:4", "4:8", "dense"])
def test_the_pattern_of_a_folder_is_the_sparsest_that_holds(pattern, tmp_path, make, keep_as):
    model = make("llama")
    if pattern == "dense":
        with pytest.raises(UserError, match=r"no pattern of 1:4.*: name it with --pattern"):
            detect_pattern(Folder(keep_as(model, tmp_path / "m")))
        return
    for target in job_for(model, pattern).targets:
        weight = model.get_submodule(target).weight
        weight.mul_(Pattern.parse(pattern).keep(weight.abs()))

    assert str(detect_pattern(Folder(keep_as(model, tmp_path / "m")))) == pattern
