"""Numbers as people read them, the same in tables, figures and sentences."""

import pytest

from bench.reporting import words
from bench.reporting.facts import Bound

RATIOS = {0.9049: "×0.905", 9.9994: "×9.999", 45.962: "×45.96", 999.94: "×999.9"}
PERCENT = {0.002: "0.2%", 9.999: "999.9%", 10993.905: "1,099,390%"}
COUNTS = {999: "999", 999_499: "999k", 999_936: "1M", 999_999_999: "1B"}
"""A training of 1M tokens in whole steps has 999,936."""
SECONDS = {0.3: "0.3 s", 240: "4 min", 5.3 * 86400: "5.3 days", 729 * 86400: "729 days"}


@pytest.mark.parametrize(
    ("write", "texts"),
    [
        (words.ratio, RATIOS | {10994.905: "×10,995"}),
        (words.percent, PERCENT),
        (words.short_count, COUNTS),
        (words.duration, SECONDS | {4.4e9: "140 years"}),
    ],
)
def test_few_digits_and_no_exponent(write, texts):
    assert {value: write(value) for value in texts} == texts


def test_the_unit_of_an_interval_stands_once():
    assert words.ratio(10994.905, 8173.212, 15147.936) == "×10,995 (8,173 to 15,148)"
    assert words.points(0.022, -0.012, 0.073) == "2.2 pp (−1.2 to 7.3)"
    assert words.percent(0.35, 0.336, 0.365) == "35.0% (33.6 to 36.5)"
    assert words.difference(-0.1, -0.12, 0.08) == "−0.100 (−0.120 to +0.080)"


@pytest.mark.parametrize("noise", [0, 1e-16, -1e-16])
def test_numbers_of_two_processors_are_one_number(noise):
    """Sums in another order differ in the last bits, also if a number is half way between two
    rounded ones."""
    assert Bound(0.9479126583197635 + noise, 0.9 + noise, 1.1 + noise) == Bound(0.9479, 0.9, 1.1)
    assert Bound(0.00125 * (1 + noise), 0.0, 0.0025).value == Bound(0.00125, 0.0, 0.0025).value
    assert Bound(1 / 3 + noise).value == 0.333333333333, "without an interval"


def test_a_name_is_cut_before_its_short_last_words():
    cuts = {
        "wanda 2:4": "wanda 2:4",
        "sparsegpt + recon + retrain 2:4": "sparsegpt + re… 2:4",
        "sparsegpt:blocksize=64:damp=0.02": "sparsegpt:blocksiz…",
    }
    assert {text: words.cut(text, 19) for text in cuts} == cuts
