"""The frame that speeds are taken in, by clocks that are made up."""

import math
import random

import pytest
import torch

from bench.parts.packed24.timing import WrongProduct, check_product
from bench.parts.speed import comparison
from bench.parts.speed.comparison import Peaks, RooflineCost, SpeedComparison, interleave


class Clock:
    """Time passes by what work says; `drift` is what each sample slows the machine down by."""

    def __init__(self, drift=0.0):
        self.order, self.slow, self.drift = [], 1.0, drift

    def measure(self, work, count):
        found = []
        for _ in range(count):
            name, seconds = work()
            self.order.append(name)
            self.slow *= 1 + self.drift
            found.append(seconds * self.slow)
        return found


def work(name, seconds, random=None, spread=0.0):
    return lambda: (name, seconds * (math.exp(random.gauss(0, spread)) if random else 1))


def test_contestants_take_turns_and_the_baseline_stands_twice():
    clock = Clock()
    got = interleave(
        {"a": work("a", 1), "b": work("b", 2)}, clock, repeat=["a"], blocks=3, block_s=1
    )

    assert clock.order[-9:] == ["a", "b", "a"] * 3
    assert set(got.blocks) == {"a", "b", "a again"}
    assert got.blocks["b"] == (2, 2, 2) and got.samples["b"] == (2, 2, 2)


def test_a_block_is_long_enough_and_its_value_a_median():
    found = iter([9, 9, 1, 1, 1, *[1, 1, 5] * 2])
    clock = Clock()
    got = interleave({"a": lambda: ("a", next(found))}, clock, repeat=[], blocks=2, block_s=3)

    # 5 warm-up calls are not in it.
    assert got.blocks["a"] == (1, 1) and got.samples["a"] == (1, 1, 5) * 2
    assert got.spread("a") == (1, 5)


def test_a_machine_that_slows_down_slows_both_sides():
    got = interleave(
        {"a": work("a", 2), "b": work("b", 1)},
        Clock(drift=0.01),
        repeat=["a"],
        blocks=20,
        block_s=0.1,
    )
    assert got.blocks["a"][-1] > 1.5 * got.blocks["a"][0]
    assert got.ratio("a", "b").value == pytest.approx(2, rel=0.02)


def test_copies_outgrow_the_cache_three_times_over_and_take_turns():
    assert comparison.copy_count(100, 1000) == 30 and comparison.copy_count(10**9, 1000) == 2
    turn = comparison.rotate(lambda x: x, "abc")
    assert [turn() for _ in range(4)] == ["a", "b", "c", "a"]


def test_the_least_time_is_that_of_the_scarcer():
    peaks = Peaks(10.0, {"bf16": 100.0})
    assert peaks.seconds(RooflineCost(1000, 10), "bf16") == 10
    assert peaks.seconds(RooflineCost(10, 1000), "bf16") == 100
    assert peaks.seconds(RooflineCost(1e9, 10), "unknown") == 1


def compare(dense, sparse, random=None, spread=0.0):
    sides = [{n: work(n, t, random, spread) for n, t in side.items()} for side in (dense, sparse)]
    return SpeedComparison("bf16", *sides, costs=(RooflineCost(0, 16), RooflineCost(0, 9)))


def verdict(asked, bandwidth):
    return comparison.summarize(asked, asked.run(Clock(), 12, 0.1), Peaks(bandwidth))


def test_the_speedup_is_over_the_fastest_dense_side():
    got = verdict(
        compare({"eager": 3.0, "compiled": 1.6}, {"2:4": 1.0, "other": 2.0}), bandwidth=12.5
    )

    assert (got["dense"], got["sparse"]) == ("compiled", "2:4")
    assert got["speedup"] == pytest.approx(1.6) and got["limit"] == pytest.approx(16 / 9, rel=1e-3)
    assert got["attained"] == pytest.approx(0.9, rel=1e-3)
    assert got["dense_share_of_peak"] == pytest.approx(16 / 12.5 / 1.6, rel=1e-3)
    assert got["sparse_share_of_peak"] == pytest.approx(9 / 12.5, rel=1e-3)
    assert got["seconds"]["eager"] == {"median": 3.0, "p20": 3.0, "p80": 3.0}
    assert got["flags"] == []


def test_a_dense_side_far_from_the_peak_is_flagged():
    (flag,) = verdict(compare({"dense": 1.6}, {"2:4": 1.0}), bandwidth=20)["flags"]
    assert flag == "the dense side is at 50% of the measured peak"


def test_a_difference_within_the_noise_is_flagged():
    noisy = verdict(compare({"dense": 1.02}, {"2:4": 1.0}, random.Random(0), 0.2), bandwidth=16)
    assert "no difference beyond the noise" in noisy["flags"] and noisy["noise"] > 0.02
    assert verdict(compare({"dense": 1.02}, {"2:4": 1.0}), bandwidth=16)["noise"] == 0


@pytest.mark.parametrize("wrong", [1.02, float("nan")])
def test_a_wrong_product_is_never_timed(wrong):
    y = torch.ones(3, 4)
    check_product("it", y * 1.005, y)
    with pytest.raises(WrongProduct, match="it is off by"):
        check_product("it", y * wrong, y)
