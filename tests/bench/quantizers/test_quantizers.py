"""Every quantizer against its grid written naively, and what each owes its caller. The mask of what
was pruned holds."""

import copy
import dataclasses
import math

import pytest
import torch

from baselines.magnitude import Magnitude
from bench.catalog.choice import build
from bench.catalog.entries import QUANTIZERS
from helpers import models
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern
from methods.model.targets import dense_weight
from methods.workshop.quantizing import grids, weight_formats
from methods.workshop.quantizing.grids import NF4, group_size
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY, INPUT_FORMATS

ENTRIES = {
    n: e for n, e in QUANTIZERS.items() if n != "none" and e.module.endswith((".rounding", ".gptq"))
}
FP8 = sorted(
    {(1 + m / 8) * 2.0**e for e in range(-6, 9) for m in range(8)} - {480.0}
    | {m / 8 * 2.0**-6 for m in range(8)}
)
"""Every magnitude that e4m3 has: 4 bits of exponent, 3 of mantissa, the last code of all being
NaN."""


def of_int(bits):
    half = 2 ** (bits - 1)
    return [float(q) for q in range(-half, half)], half - 0.5


GRIDS = {
    "int8": (*of_int(8), None), "w8a8": (*of_int(8), None),
    "fp8": ([-v for v in FP8] + FP8, 448.0, None), "int4-rtn": (*of_int(4), 32),
    "int3-rtn": (*of_int(3), 32), "nf4": (list(NF4), 1.0, 32),
}  # fmt: skip
"""Points, what max|w| is scaled to, and the group on the test's 96 inputs; None: the row."""
BITS = {
    **dict.fromkeys(("int8", "w8a8", "w8a8-smooth", "fp8"), (8, 16, 0, 0)),
    **dict.fromkeys(("int4", "int4-awq"), (4, 16, 128, 0)), "int3": (3, 16, 128, 0),
    "nf4": (4, 32, 64, 0), "mxfp8": (8, 8, 32, 0),
    **dict.fromkeys(("mxfp4", "mxfp4-w4a4"), (4, 8, 32, 0)),
    **dict.fromkeys(("nvfp4", "nvfp4-w4a4"), (4, 8, 16, 32)),
}  # fmt: skip
"""Bits of a value and of a scale, most weights that share one (0: a row), and bits of the tensor's
scale."""
INPUT_BITS = {"w8a8": 8, "w8a8-smooth": 8, "mxfp4-w4a4": 4, "nvfp4-w4a4": 4}


def naive(weight, name):
    """The nearest point of each weight, group by group, in float64."""
    points, top, group = GRIDS[name]
    points = torch.tensor(points, dtype=torch.float64)
    out = weight.double().clone()
    group = group or weight.shape[1]
    for row in out:
        for a in range(0, len(row), group):
            part = row[a : a + group]
            scale = part.abs().max() / top
            if name != "nf4":
                scale = scale.bfloat16().double()
            if scale > 0:
                part.copy_(points[(part[:, None] / scale - points).abs().argmin(1)] * scale)
    return out


@pytest.fixture(scope="module", params=ENTRIES)
def quantizer(request):
    return build(ENTRIES[request.param], request.param, {})


@pytest.fixture(scope="module")
def pruned():
    """Half of everything zero, and a job over all targets but one linear of each kind."""
    model = models.build("llama")
    job = models.job_for(model)
    Magnitude().apply(model, job)
    return model, dataclasses.replace(job, targets=job.targets[:-7])


@pytest.fixture(scope="module")
def outcome(quantizer, pruned):
    """Return the outcome of a quantizer on the pruned model. It is shared by the tests of a
    quantizer."""
    return apply(quantizer, *pruned)


def apply(quantizer, model, job):
    return quantizer.apply(copy.deepcopy(model), job)


def view(tensor):
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


@pytest.mark.numeric
@pytest.mark.parametrize("name", GRIDS)
def test_nearest_point_of_its_grid(name, llama, make_job):
    job = make_job(llama, "dense")
    target = llama.get_submodule(job.targets[0])
    target.weight = torch.nn.Parameter(
        torch.randn(24, 96) * torch.rand(24, 1).exp(), requires_grad=False
    )
    target.weight[3] = 0
    target.weight[4, :40] = 0
    before = target.weight.clone()

    build(ENTRIES[name], name, {}).apply(llama, job)

    torch.testing.assert_close(target.weight.double(), naive(before, name), rtol=1e-6, atol=1e-7)


def test_pattern_holds_and_nothing_else_changes(outcome, pruned):
    model, job = pruned
    before, after = model.state_dict(), outcome.model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {t + ".weight" for t in job.targets}
    for target in job.targets:
        weight, was = (dense_weight(m.get_submodule(target)) for m in (outcome.model, model))
        assert job.pattern.violations(weight) == 0
        assert not weight[was == 0].any()
        assert torch.equal(view(weight) != 0, weight != 0), "a -0.0"
        assert (weight - was).norm() < 0.3 * was.norm()


@pytest.mark.parametrize("dtype", models.sample((torch.bfloat16, torch.float16), torch.float16))
def test_no_negative_zero_even_where_the_dtype_underflows(quantizer, dtype, pruned):
    model, job = copy.deepcopy(pruned[0]), pruned[1]
    for target in job.targets[:7]:
        model.get_submodule(target).weight.mul_(1e-7)

    outcome = quantizer.apply(model.to(dtype), job)

    for target in job.targets:
        weight = outcome.model.get_submodule(target).weight
        assert weight.dtype == dtype and weight.isfinite().all()
        assert torch.equal(view(weight) != 0, weight != 0)


def test_the_same_twice(quantizer, pruned, outcome):
    again = apply(quantizer, *pruned)

    assert outcome.notes == again.notes
    for key, tensor in outcome.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[key]), key


@pytest.mark.parametrize("pattern", ["dense", "2:4"])
def test_its_stored_tensors_give_its_weights_and_take_the_bits_of_the_formula(
    quantizer, pattern, pruned, outcome, tmp_path
):
    model, job = pruned
    if pattern == "dense":
        outcome = apply(quantizer, model, dataclasses.replace(job, pattern=Pattern()))
    bits, scale, group, of_tensor = BITS[quantizer.name.removesuffix("-gptq").removesuffix("-rtn")]

    stored = models.store(outcome.stored, tmp_path, pattern)
    weights = {target: outcome.model.get_submodule(target).weight for target in job.targets}
    formula = 0.0
    for target, weight in weights.items():
        assert torch.equal(view(stored[target].decode()), view(weight)), target
        of_group = math.gcd(group, weight.shape[1]) if group else weight.shape[1]
        per_weight = (bits if pattern == "dense" else bits / 2 + 1) + scale / of_group
        formula += per_weight * weight.numel() + of_tensor
    counted = stored.count()
    assert set(stored) == set(weights)
    assert counted.weights == sum(w.numel() for w in weights.values())
    assert 8 * (counted.values + counted.others) == formula
    about = outcome.config.get(ACTIVATIONS_KEY, {})
    assert about.get("bits") == INPUT_BITS.get(quantizer.name)


@pytest.mark.parametrize(
    "quantizer", models.sample(ENTRIES, "int3-rtn", "int4-gptq"), indirect=True
)
def test_gpt2_is_rounded_along_its_inputs(quantizer, make, make_job):
    """Its files have [in, out]; a scale belongs to an output."""
    model = make("gpt2")
    job = make_job(model)
    Magnitude().apply(model, job)
    outcome = quantizer.apply(model, job)

    for target in job.targets:
        weight = dense_weight(outcome.model.get_submodule(target))
        assert job.pattern.violations(weight) == 0
        if quantizer.name == "int3-rtn":
            assert max(len(row[:32].unique()) for row in weight) <= 8


@pytest.mark.parametrize(
    ("width", "most", "group"),
    [(576, 128, 64), (128, 128, 128), (4096, 128, 128), (4096, 64, 64), (352, 128, 32)],
)
def test_group_is_the_largest_power_of_two_that_divides(width, most, group):
    assert group_size(width, None, most, "int4-rtn") == group
    assert group_size(width, 16, most, "int4-rtn") == 16


@pytest.mark.parametrize(("width", "asked"), [(96, 64), (96, 0), (96, -8), (100, None), (99, None)])
def test_group_that_does_not_divide(width, asked):
    with pytest.raises(UserError, match=rf"int4-rtn:group=\S+ does not divide {width} inputs"):
        group_size(width, asked, 128, "int4-rtn")


@pytest.mark.numeric
def test_agrees_with_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(32, 128)
    theirs = functional.dequantize_4bit(
        *functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    )

    grids.round_(weight, grids.NormalFloat4(), 64)
    torch.testing.assert_close(weight, theirs, rtol=0, atol=0)


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["int8", "int4", "int3", "fp8"])
def test_errs_as_little_as_torchao(name):
    """Theirs keeps a float32 scale, so the two differ by the rounding of ours alone."""
    ao = pytest.importorskip("torchao.quantization")
    from torchao.quantization.quant_primitives import MappingType

    linear = torch.nn.Linear(256, 64, bias=False)
    before = linear.weight.detach().clone()
    symmetric = {"granularity": ao.PerGroup(64), "mapping_type": MappingType.SYMMETRIC}

    def grouped(bits):
        dtype = getattr(torch, f"int{bits}")
        config = ao.IntxWeightOnlyConfig(weight_dtype=dtype, **symmetric)
        return config, grids.Integer(bits), 64

    config, grid, group = {
        "int8": lambda: (ao.Int8WeightOnlyConfig(), grids.Integer(8), 256),
        "int4": lambda: grouped(4),
        "int3": lambda: grouped(3),
        "fp8": lambda: (ao.Float8WeightOnlyConfig(), grids.Float8(), 256),
    }[name]()
    ao.quantize_(linear, config)
    ours = before.clone()
    grids.round_(ours, grid, group)

    errors = [float((w - before).square().mean()) for w in (ours, linear.weight.dequantize())]
    assert math.isclose(*errors, rel_tol=0.03)


@pytest.mark.parametrize(("bits", "dtype"), [(4, "float4_e2m1fn_x2"), (8, "float8_e4m3fn")])
def test_mx_formats_are_those_of_torchao(bits, dtype):
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    weight = torch.randn(16, 64) * torch.logspace(-3, 1, 16)[:, None]
    theirs = mx.MXTensor.to_mx(
        weight, getattr(torch, dtype), 32, mx.ScaleCalculationMode.FLOOR
    ).dequantize(torch.float32)
    grids.round_(weight, grids.Microscaling(bits), 32)
    assert torch.equal(weight, theirs)


@pytest.mark.parametrize("bits", [4, 8])
def test_infinity_in_a_group_of_mx_is_no_number(bits):
    weight = torch.ones(2, 32)
    weight[0, 3] = math.inf
    grids.round_(weight, grids.Microscaling(bits), 32)
    assert weight[0].isnan().all() and (weight[1] == 1).all()


def test_nvfp4_is_that_of_torchao():
    nv = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    weight = torch.randn(16, 64) * torch.logspace(-3, 1, 16)[:, None]
    scale = nv.per_tensor_amax_to_scale(weight.abs().max())
    theirs = nv.NVFP4Tensor.to_nvfp4(weight, 16, per_tensor_scale=scale).dequantize(torch.float32)
    grids.round_(weight, grids.NvFloat4(), 16)
    torch.testing.assert_close(weight, theirs, rtol=1e-6, atol=0)


E2M1 = (0, 0.5, 1, 1.5, 2, 3, 4, 6)


def test_e2m1_is_the_nearest_point_and_halves_go_to_the_even_one():
    x = torch.linspace(-7, 7, 57)  # steps of a quarter: every midpoint
    points = [sign * point for sign in (1, -1) for point in E2M1]
    for value, got in zip(x.tolist(), grids.e2m1(x).tolist(), strict=True):
        near = min(abs(value - p) for p in points)
        ties = [p for p in points if abs(value - p) == near]
        assert got in ties
        if len({abs(p) for p in ties}) == 2:
            assert E2M1.index(abs(got)) % 2 == 0


@pytest.mark.parametrize(
    ("form", "most", "inputs"),
    [
        (weight_formats.NVFP4, 32, ""),
        (weight_formats.NVFP4_W4A4, 32, "nvfp4-pairs"),
        (weight_formats.MXFP4_W4A4, 64, "mxfp4-pairs"),
        (weight_formats.INT4, 128, ""),
    ],
)
def test_a_scale_of_tensor_cores_covers_twice_as_many_weights_of_pairs(form, most, inputs):
    under = form.under(Pattern.parse("pairs:4:8"))
    assert (under.most, under.inputs) == (most, inputs)
    assert form.under(Pattern.parse("2:4")) == form
    if inputs:
        x = torch.ones(1, 64)
        x[0, 8:] = 0.1
        wide, usual = INPUT_FORMATS[under.inputs](x), INPUT_FORMATS[form.inputs](x)
        assert not torch.equal(wide[0, form.most : most], usual[0, form.most : most])
        assert torch.equal(wide[0, most:], usual[0, most:])


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4"])
def test_inputs_are_rounded_token_by_token(name):
    rounded = INPUT_FORMATS[name]
    x = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0)) * 5
    x[0, 1] = 0
    assert torch.equal(rounded(x)[1], rounded(x[1:])[0])  # no token depends on another
    assert torch.equal(rounded(x)[0, 1], x[0, 1])
    assert 0 < float((rounded(x) - x).norm() / x.norm()) < 0.2
    assert len(rounded(x)[1, 2, :16].abs().unique()) <= 8
