"""The search in C++ and in torch, and both against the definition in float64."""

import pytest
import torch

from bench.parts.codebooks import trellis
from bench.parts.packed24 import native
from helpers import runs

CASES = [(2, 9), (3, 10), (4, 9), (2, 12), (4, 12)]


@pytest.fixture(params=trellis.PATHS)
def library(request, monkeypatch):
    """The native library, for each kind of instructions that this processor has."""
    monkeypatch.setenv("CAST_BENCH_CACHE", str(runs.USUAL))
    found = trellis.load.__wrapped__(request.param)
    if found is None:
        pytest.skip("no C++ compiler")
    return found


def smallest(x, tie, bits, memory):
    """The least squared error of a ring whose overlap at x[0] is `tie`, in float64: all states, one
    step after the other."""
    code = trellis.numbers(torch.arange(1 << memory)).double() * trellis.UNIT
    overlaps = 1 << (memory - bits)
    state = torch.arange(1 << memory)
    cost = torch.full((1 << memory,), torch.inf, dtype=torch.float64)
    cost[tie] = 0  # any state with this overlap as its lower bits
    for number in x.double():
        before = cost.view(-1, overlaps).amin(0)  # by the lower bits of a state
        cost = before[state >> bits] + (number - code) ** 2
    return cost.view(-1, overlaps).amin(0)[tie]


@pytest.mark.numeric
@pytest.mark.parametrize(("bits", "memory"), CASES)
def test_cpp_gives_the_symbols_of_torch(bits, memory, library, monkeypatch):
    x = torch.randn(5, trellis.STEPS)
    x[0, :40] = 9  # beyond what int16 holds
    x[1] = 0
    x[2] *= 3
    monkeypatch.setattr(trellis, "load", lambda: library)

    got = trellis.search(x, bits, memory)

    monkeypatch.setattr(trellis, "load", lambda: None)
    monkeypatch.setattr(trellis, "BATCH", 2)
    assert torch.equal(got, trellis.search(x, bits, memory))


@pytest.mark.numeric
@pytest.mark.parametrize(("bits", "memory"), CASES[:3])
def test_the_ring_is_the_best_of_its_overlap(bits, memory, monkeypatch):
    x = torch.randn(3, trellis.STEPS)
    monkeypatch.setattr(trellis, "load", lambda: None)

    symbols = trellis.search(x, bits, memory)

    found = trellis.states(symbols, bits, memory)
    after = ((found.roll(1, 1) << bits) | symbols) & ((1 << memory) - 1)
    assert torch.equal(found, after), "the last state is not before the first"
    numbers = trellis.numbers(found).float() * trellis.UNIT
    for i in range(3):
        best = smallest(x[i], int(found[i, 0]) >> bits, bits, memory)
        error = (numbers[i] - x[i]).double().square().sum()
        assert best - 1e-6 <= error <= 1.001 * best


def test_a_state_is_the_symbols_before_it():
    symbols = torch.arange(trellis.STEPS, dtype=torch.uint8) % 8
    found = trellis.states(symbols, 3, 10)
    assert int(found[4]) == (1 << 9 | 2 << 6 | 3 << 3 | 4) & 1023
    assert int(found[0]) == (5 << 9 | 6 << 6 | 7 << 3 | 0) & 1023


def test_the_number_of_a_state_is_the_sum_of_four_bytes():
    states = [0, 1, 4095, 65535]
    products = [(state * 34038481 + 76625530) % 2**32 for state in states]
    want = [55 * (sum(x.to_bytes(4, "little")) - 510) for x in products]
    assert trellis.numbers(torch.tensor(states)).tolist() == want


def test_the_fastest_path_that_the_processor_has_is_used(monkeypatch):
    given = []
    monkeypatch.setattr(
        native, "load_library", lambda source, *flags: given.append(flags) or _Library()
    )
    monkeypatch.delenv(trellis.KERNEL_PATH, raising=False)
    for flags, want in (
        ({"avx2", "avx512f", "avx512bw"}, "avx512"),
        ({"avx2"}, "avx2"),
        ((), "portable"),
    ):
        monkeypatch.setattr(trellis.provenance, "cpu_flags", lambda flags=flags: flags)
        trellis.load.__wrapped__()
        assert given[-1] == trellis.PATHS[want]
    monkeypatch.setattr(trellis.provenance, "cpu_flags", lambda: {"avx2"})
    monkeypatch.setenv(trellis.KERNEL_PATH, "portable")
    trellis.load.__wrapped__()
    assert given[-1] == ()


class _Library:
    class viterbi_encode:
        argtypes = restype = None


def test_without_a_compiler_torch_searches(monkeypatch):
    def refuse(*_):
        raise native.NoKernel("no C++ compiler")

    monkeypatch.setattr(native, "load_library", refuse)
    assert trellis.load.__wrapped__() is None
