"""The runner's own check, on folders made by hand."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bench.verify import CheckFailed, round_weights, verify
from methods.contract.pattern import Pattern
from methods.model.folder import Folder

LINEARS = [f"self_attn.{x}_proj" for x in "qkvo"] + [
    f"mlp.{x}_proj" for x in ("gate", "up", "down")
]
TARGET = "model.layers.0.mlp.up_proj"
NORM = "model.norm.weight"


def llama():
    """A llama of one block, 8 wide, that keeps 2:4 everywhere."""
    torch.manual_seed(0)
    tensors = {f"model.layers.0.{n}.weight": torch.randn(8, 8) for n in LINEARS}
    for weight in tensors.values():
        weight.view(8, 2, 4)[..., 2:] = 0
    return tensors | {NORM: torch.ones(8)}


def folder(path, tensors, kind="llama"):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": kind}))
    save_file({n: t.contiguous() for n, t in tensors.items()}, path / "model.safetensors")
    return Folder(path)


@pytest.fixture
def check(tmp_path):
    """verify() of llama() after a change."""
    targets = [f"model.layers.0.{n}" for n in LINEARS]

    def run(change=lambda tensors: None, *, declared=(), dtype=torch.float32):
        tensors = llama()
        change(tensors)
        before, after = folder(tmp_path / "before", llama()), folder(tmp_path / "after", tensors)
        return verify(before, after, Pattern(2, 4), targets, declared, dtype)

    return run


def test_counts(check):
    counts = check()

    assert counts.parameters == 7 * 64 + 8
    assert counts.zeros == 7 * 32
    assert counts.bytes == 4 * counts.parameters
    assert (counts.violations, counts.negative_zeros, counts.changed) == (0, 0, frozenset())
    assert {(x.weights, x.zeros) for x in counts.layers.values()} == {(64, 32)}


def test_change_outside_the_targets(check):
    with pytest.raises(
        CheckFailed, match=r"model\.norm\.weight changed, and .* nor declared: .*Outcome\.changed"
    ):
        check(lambda t: t[NORM][0].fill_(2))


def test_declared_change(check):
    assert check(lambda t: t[NORM][0].fill_(2), declared=[NORM]).changed == {NORM}


def test_change_of_the_sign_of_zero_is_a_change(tmp_path):
    tensors = llama() | {NORM: torch.zeros(8)}
    before, after = (
        folder(tmp_path / "a", tensors),
        folder(tmp_path / "b", tensors | {NORM: -torch.zeros(8)}),
    )
    with pytest.raises(CheckFailed, match="nor declared"):
        verify(before, after, Pattern(2, 4), [TARGET], [], torch.float32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(NORM), r"tensor model\.norm\.weight is missing"),
        (lambda t: t.update({"model.norm.bias": torch.ones(8)}),
         r"tensor model\.norm\.bias is new"),
        (lambda t: t.update({NORM: torch.ones(4)}), r"changed from float32 \[8\] to float32 \[4\]"),
        (lambda t: t.update({NORM: torch.ones(8).half()}),
         r"changed from float32 \[8\] to float16 \[8\]"),
        (lambda t: t[TARGET + ".weight"][0, 0].fill_(torch.nan),
         r"up_proj\.weight contains NaN or infinity"),
        (lambda t: t[NORM][0].fill_(torch.inf), r"norm\.weight contains NaN or infinity"),
        (lambda t: t[TARGET + ".weight"][3, 2].fill_(0.5),
         rf"2:4 does not hold in 1 group, 1 of them in {TARGET}"),
        # Its bits are a third weight's.
        (lambda t: t[TARGET + ".weight"][3, 2].fill_(-0.0), "2:4 does not hold in 1 group"),
    ],
    ids=["missing", "new", "shape", "dtype", "nan", "inf", "a group too full", "negative zero"],
)  # fmt: skip
def test_what_no_method_may_do(check, change, said):
    with pytest.raises(CheckFailed, match=said):
        check(change, declared=[NORM])


@pytest.mark.parametrize(
    ("bias", "said"),
    [
        (torch.full((8,), torch.nan), "contains NaN"),
        (torch.ones(8).half(), "is new and float16, not float32"),
    ],
)
def test_a_new_tensor_is_checked_although_it_is_declared(check, bias, said):
    with pytest.raises(CheckFailed, match=said):
        check(lambda t: t.update({"model.norm.bias": bias}), declared=["model.norm.bias"])


def test_declared_or_not_the_dtype_is_the_runs(check):
    def halve(tensors):
        tensors.update({n: t.bfloat16() for n, t in tensors.items()})

    assert check(halve, dtype=torch.bfloat16).changed == frozenset()


def test_conv1d_keeps_its_groups_along_the_first_dimension(tmp_path):
    """GPT-2 stores [in, out]."""
    name = "transformer.h.0.attn.c_proj"
    sparse = torch.randn(8, 8)
    sparse.view(2, 4, 8)[:, 2:] = 0
    dense = folder(tmp_path / "dense", {name + ".weight": torch.randn(8, 8)}, "gpt2")
    good = folder(tmp_path / "good", {name + ".weight": sparse}, "gpt2")
    bad = folder(tmp_path / "bad", {name + ".weight": sparse.T}, "gpt2")

    assert verify(dense, good, Pattern(2, 4), [name], [], torch.float32).layers[name].zeros == 32
    with pytest.raises(CheckFailed, match="2:4 does not hold in"):
        verify(dense, bad, Pattern(2, 4), [name], [], torch.float32)


@pytest.mark.parametrize("kind", ["llama", "olmoe"])
@pytest.mark.parametrize(("stored", "step"), [(torch.bfloat16, 2.0**-8), (torch.float32, 2.0**-23)])
def test_rounding_changes_each_weight_by_at_most_one_step(stored, step, kind, make, make_job):
    model = make(kind)
    job = make_job(model)
    before = {name: model.get_submodule(name).weight.clone() for name in job.targets}

    round_weights(model, job.targets, stored)

    for name, weight in before.items():
        change = ((model.get_submodule(name).weight - weight) / weight).abs()
        assert step / 8 < change.max() <= 1.01 * step, name
