"""Calibration against its definitions, written out."""

import math

import numpy as np
import pytest

from bench.stats.calibration import brier, expected_error, probabilities, risk_coverage_area


def test_a_question_by_hand():
    logs = [math.log(0.2) - 900, math.log(0.6) - 900, math.log(0.2) - 900]
    assert probabilities(logs) == pytest.approx([0.2, 0.6, 0.2])
    assert brier(logs, 1) == pytest.approx(0.2**2 + 0.4**2 + 0.2**2)
    assert brier([0.0, -1e4], 1) == pytest.approx(2)


def test_the_error_is_over_bins_of_equal_numbers():
    sure = np.linspace(0.3, 0.99, 40)
    right = (np.arange(40) % 3 == 0).astype(float)
    apart = [abs(sure[k : k + 4].mean() - right[k : k + 4].mean()) for k in range(0, 40, 4)]
    order = np.random.default_rng(0).permutation(40)
    assert expected_error(sure[order], right[order]) == pytest.approx(np.mean(apart))
    for hits in ([1] * 7 + [0] * 3, [0] * 3 + [1] * 7):  # answers of one confidence have no order
        assert expected_error([0.7] * 10, hits) == pytest.approx(0)
    assert expected_error([0.25], [1]) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("sure", "right", "area"),
    [
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 0], (0 + 0 + 1 / 3 + 2 / 4) / 4),
        ([0.6, 0.9, 0.7, 0.8], [1, 0, 1, 0], (1 + 1 + 2 / 3 + 2 / 4) / 4),
        # Any order of equal answers gives this on average.
        ([0.5, 0.5], [1, 0], 0.5),
    ],
)
def test_the_surest_answers_come_first(sure, right, area):
    assert risk_coverage_area(sure, right) == pytest.approx(area)
