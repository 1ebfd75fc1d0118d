"""The native kernel against the definition, on every path this processor has; and what happens
where there is none."""

import copy
from dataclasses import replace
from itertools import product

import pytest
import torch

from bench.parts.packed24 import cpu24, native
from bench.parts.packed24.integers24 import pack_rounded
from bench.parts.packed24.packing import PackedWeight, pack, unpack
from bench.system import provenance
from bench.system.devices import KERNEL_PATH
from helpers.models import sample
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern

pytestmark = pytest.mark.numeric

SHAPES = [(3, 12), (7, 68), (16, 576), (9, 1100)]  # out, in: tails of all kinds
ROWS = (1, 2, 7, 15)
"""Up to four are multiplied at once, so that seven are four and three. From twelve on, weights are
unpacked once for all."""


def sparse(out, width):
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(out))
    return torch.where(Pattern(2, 4).keep(weight.abs()), weight, 0).bfloat16()


def levels(x):
    """What the kernel makes of x beside int8: int16 [rows, width] and the step of each row, [rows,
    1]."""
    step = x.abs().amax(1, keepdim=True) / 32639
    step[step == 0] = 1
    return (x / step).round().to(torch.int16), step


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.full)])
def test_bfloat16_is_the_definition_on_every_path(kernel, shape, threads):
    weight = sparse(*shape)
    for rows in ROWS:
        x = torch.randn(rows, shape[1]).bfloat16()
        wanted = x.double() @ weight.double().T
        for path in kernel.paths:
            dense = cpu24.to_dense_kernel_layout(weight)
            for laid in (cpu24.to_kernel_layout(pack(weight)), dense):
                got = cpu24.product(x, laid, threads=threads, path=path)
                assert got.dtype == torch.float32
                torch.testing.assert_close(
                    got.double(), wanted, rtol=1e-4, atol=1e-4, msg=f"{path} {rows} rows"
                )


WIDE = [*SHAPES, (5, 64), (6, 1536), (2, 33000)]


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize(
    ("shape", "threads"),
    sample(product(WIDE, (1, 2)), *product(WIDE, (1,)), ((16, 576), 2), ((9, 1100), 2)),
    ids=str,
)
def test_integers_are_exact_on_every_path(kernel, kind, shape, threads):
    packed = pack_rounded(sparse(*shape), kind)
    if not cpu24.supports(packed):
        assert kind == "int4" and shape[1] % 64
        return
    weight = unpack(
        replace(packed, dtype=torch.float32)
    ).double()  # exact: an integer of 8 bits times one
    for rows in ROWS:
        x = torch.randn(rows, shape[1])
        x[-1] *= rows % 2  # a row of zeros has a step, too
        seen, step = levels(x)
        wanted = (
            seen.double() @ weight.T
        ).float() * step  # float64 holds each sum, so no order rounds
        for path in kernel.paths:
            for laid in (cpu24.to_kernel_layout(packed), cpu24.dense_twin(packed)):
                assert torch.equal(cpu24.product(x, laid, threads=threads, path=path), wanted), (
                    path,
                    rows,
                )


def test_the_largest_sums_overflow_nowhere(kernel):
    width = 32768
    for sign in (1, -1):
        row = torch.tensor([-128, 0, 0, -128], dtype=torch.int8).repeat(1, width // 4)
        mask = torch.full((1, width // 8), 0x99, dtype=torch.uint8)
        values = torch.full((1, width // 2), -128, dtype=torch.int8)
        packed = PackedWeight(
            "int8", width, torch.float32, values, mask, torch.ones(1, 1).bfloat16()
        )
        x = torch.full((1, width), float(sign))
        dense = torch.full((1, width), -128, dtype=torch.int8)
        wanted = {False: -sign * 128.0 * width / 2, True: -sign * 128.0 * width}
        for path in kernel.paths:
            twin = cpu24.to_dense_kernel_layout(dense, torch.ones(1))
            for laid in (cpu24.to_kernel_layout(packed), twin):
                got = cpu24.product(x, laid, path=path)
                torch.testing.assert_close(
                    got, torch.tensor([[wanted[laid.dense]]]), rtol=1e-6, atol=0
                )
        assert torch.equal(unpack(packed), row.float())


@pytest.mark.parametrize("width", [4096, 4160, 8192])
def test_a_row_of_one_sign_overflows_nowhere(kernel, width):
    """The worst for lanes: x is its largest everywhere, and both kept weights of a group are in one
    lane."""
    mask, values = (
        torch.full((1, width // 8), 0x33, dtype=torch.uint8),
        torch.full((1, width // 2), -128).char(),
    )
    packed = PackedWeight("int8", width, torch.float32, values, mask, torch.ones(1, 1).bfloat16())
    dense = [torch.full((1, width), value).char() for value in (3, 127, -128)]
    laid = [(unpack(packed), cpu24.to_kernel_layout(packed))]
    laid += [(w, cpu24.to_dense_kernel_layout(w, torch.ones(1))) for w in dense]
    for rows in (1, 2, 4, 12):
        seen, step = levels(torch.ones(rows, width))
        for weight, kernel_weight in laid:
            wanted = (seen.double() @ weight.double().T).float() * step
            for path in kernel.paths:
                got = cpu24.product(torch.ones(rows, width), kernel_weight, path=path)
                torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)


def test_inputs_and_a_bias_must_fit(kernel):
    weight = cpu24.to_kernel_layout(pack(sparse(32, 64), "w"))
    with pytest.raises(
        ValueError, match=r"inputs \[1, 32\] or a bias None for a matrix of 32 x 64"
    ):
        cpu24.product(torch.ones(1, 32), weight)
    with pytest.raises(ValueError, match=r"or a bias \[8\] for"):
        cpu24.product(torch.ones(1, 64), weight, torch.ones(8))


def test_a_bias_may_have_gaps_and_subnormal_inputs_are_zero(kernel):
    weight = cpu24.to_kernel_layout(pack_rounded(sparse(32, 64), "int8"))
    bias = torch.randn(64)[::2]
    for path in kernel.paths:
        got = cpu24.product(torch.full((1, 64), 6e-41), weight, bias, path=path)
        assert torch.equal(got[0], bias)


def test_a_nan_is_not_hidden(kernel):
    weight = sparse(5, 64)
    x = torch.randn(2, 64)
    x[1, 3] = float("nan")
    for packed in (pack(weight), pack_rounded(weight, "int8")):
        laid = cpu24.to_kernel_layout(packed)
        for path in kernel.paths:
            got = cpu24.product(x, laid, path=path)
            assert got[0].isfinite().all()
            assert got[1].isnan().any() if laid.scales is None else got[1].isnan().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_layout_has_a_way_back(shape):
    weight = sparse(*shape)
    kinds = [pack_rounded(w, kind) for kind in ("int8", "int4") for w in (weight, weight.float())]
    for packed in filter(cpu24.supports, (pack(weight), *kinds)):
        again = cpu24.from_kernel_layout(cpu24.to_kernel_layout(packed))
        assert torch.equal(cpu24.unpack_kernel_weight(cpu24.dense_twin(packed)), unpack(packed))
        assert again.parts().keys() == packed.parts().keys()
        assert all(torch.equal(again.parts()[k], t) for k, t in packed.parts().items())
        assert (again.kind, again.width, again.dtype) == (packed.kind, packed.width, packed.dtype)


def test_memory_is_nine_bits_a_weight_five_or_three_and_scales():
    weight = sparse(4, 4096)
    made = pack(weight), pack_rounded(weight, "int8"), pack_rounded(weight, "int4")
    floats, eight, four = map(cpu24.to_kernel_layout, made)
    held = (floats.memory.nbytes, eight.memory.nbytes, four.memory.nbytes + four.scales.nbytes)
    assert [8 * size / weight.numel() for size in held] == [9, 5, 3.25]


def test_the_environment_names_a_path(kernel, monkeypatch):
    monkeypatch.setenv(KERNEL_PATH, "portable")
    assert native.select_path(kernel) == "portable"
    monkeypatch.delenv(KERNEL_PATH)
    assert native.select_path(kernel) == kernel.best
    monkeypatch.setenv(KERNEL_PATH, "avx513")
    with pytest.raises(
        UserError, match="invalid BENCH_KERNEL_PATH='avx513': this processor supports portable"
    ):
        native.select_path(kernel)


def test_a_path_that_the_processor_lacks_is_refused(kernel, monkeypatch):
    older = copy.copy(kernel)
    older.best = "avx2"
    monkeypatch.setattr(native, "load", lambda: older)
    laid = cpu24.to_kernel_layout(pack(sparse(3, 12)))

    for path in ("avx512", "avx512bf16"):
        with pytest.raises(
            UserError, match=rf"invalid path '{path}': this processor supports portable, avx2$"
        ):
            cpu24.product(torch.randn(1, 12), laid, path=path)


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """compiler(script or None) -> native.load without its memory, in a cache of its own, with that
    as compiler."""
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / "cache"))

    def be(script):
        file = tmp_path / "fake-c++"
        if script is not None:
            file.write_text(f"#!/bin/sh\n{script}\n")
            file.chmod(0o755)
        monkeypatch.setenv(native.COMPILER_ENV, str(file))
        return native.load.__wrapped__

    return be


def test_without_a_compiler_it_says_so(compiler):
    with pytest.raises(native.NoKernel, match=r"^no C\+\+ compiler$"):
        compiler(None)()


def test_code_for_another_processor_is_not_loaded(compiler, monkeypatch):
    """A compiler wrapper that adds -march causes this."""
    load = compiler(
        'case "$*" in --version) echo fake 1;; *-dM*) echo "#define __AVX512F__ 1";; *) exit 1;; '
        "esac"
    )

    monkeypatch.setattr(provenance, "cpu_flags", lambda: frozenset({"avx2", "fma"}))
    with pytest.raises(
        native.NoKernel, match=r"fake-c\+\+ writes code for avx512f, which this processor lacks$"
    ):
        load()
    for flags in ({"avx2", "avx512f"}, ()):
        monkeypatch.setattr(provenance, "cpu_flags", lambda flags=flags: frozenset(flags))
        with pytest.raises(native.NoKernel, match=r"the C\+\+ compiler fails"):
            load()


def test_a_compiler_that_fails_says_why(compiler, tmp_path):
    fails = 'case "$1" in --version) echo fake 1;; *) echo "x.cpp:1: error: no" >&2; exit 1;; esac'
    with pytest.raises(native.NoKernel, match=r"the C\+\+ compiler fails: x\.cpp:1: error: no"):
        compiler(fails)()
    assert not list((tmp_path / "cache/native").iterdir())


def test_another_compiler_is_another_file(compiler, tmp_path):
    for version in ("fake 1", "fake 2", "fake 2"):
        load = compiler(
            f'case "$*" in --version) echo {version};; *-dM*) ;; *) shift 6; echo no library > '
            '"$1";; esac'
        )
        with pytest.raises(native.NoKernel, match="cannot be loaded"):
            load()
    assert len(list((tmp_path / "cache/native").iterdir())) == 2
