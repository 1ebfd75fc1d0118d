"""Calibration of a choice: does a model that is surer answer better?

A confidence is the probability of the first choice among all choices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10
"""Number of bins of the calibration error, each with as many answers."""


def probabilities(logs: ArrayLike) -> NDArray[np.float64]:
    """Return the probabilities of choices among themselves, from ln p of each, in any unit."""
    values = np.asarray(logs, np.float64)
    odds = np.exp(values - values.max())
    return np.asarray(odds / odds.sum())


def brier(logs: ArrayLike, right: int) -> float:
    """Return Brier's score of a question (1950): the squared error of the probabilities, summed
    over the choices. It is 0 for a sure right answer and 2 for a sure wrong one."""
    errors = probabilities(logs)
    errors[right] -= 1
    return float(errors @ errors)


def expected_error(confidences: ArrayLike, right: ArrayLike) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy over
    adaptive bins, which have equal numbers of answers (Nixon et al. 2019, 1904.01685).

    right: 1 for a right answer, else 0. Few answers make it too large, in all models alike. Answers
    of one confidence share their hits, so the order of the answers changes nothing.
    """
    sure = np.asarray(confidences, np.float64)
    _, groups, sizes = np.unique(sure, return_inverse=True, return_counts=True)
    hits = (np.bincount(groups, np.asarray(right, np.float64)) / sizes)[groups]
    order = np.argsort(sure, kind="stable")
    gaps = [abs((sure[part] - hits[part]).sum()) for part in np.array_split(order, BINS)]
    return float(sum(gaps) / len(sure))


def risk_coverage_area(confidences: ArrayLike, right: ArrayLike) -> float:
    """Return the area under risk and coverage (Geifman and El-Yaniv, 1705.08500): the mean error of
    the k surest answers over all k. Answers of one confidence share their errors."""
    _, groups, sizes = np.unique(
        -np.asarray(confidences, np.float64), return_inverse=True, return_counts=True
    )
    wrong = np.bincount(groups, 1 - np.asarray(right, np.float64)) / sizes
    kept = np.arange(1, len(groups) + 1)
    return float((np.repeat(wrong, sizes).cumsum() / kept).mean())
