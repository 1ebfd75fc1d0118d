"""The page of calibration texts, from records that are made up."""

import math

import pytest

from bench.results.record import ReadingRow
from helpers import fake_records

SCRIPT = "calibration_page"
SLOTS = {
    "text": {"measure": "perplexity", "protocol": "wiki-mini@128"},
    "code": {"measure": "answers", "protocol": "code/mbpp@3-shot"},
    "reading": {"measure": "answers", "protocol": "reading/squad@5-shot"},
}
LOSSES = {"wiki": {"text": 0.1, "code": 0.3, "reading": 0.1}}
LOSSES["code"] = {"text": 0.2, "code": 0.1, "reading": 0.25}


def records(seeds):
    """Each loss is 0.01 lower with seed 0, and higher with seed 2."""
    yield from of_row({}, dict.fromkeys(SLOTS, 0.0), method="dense")
    for source, losses in LOSSES.items():
        for seed in seeds:
            about = {"seed": seed, "calibration": f"{source}@128x16"}
            yield from of_row(about, {what: x + 0.01 * (seed - 1) for what, x in losses.items()})


def of_row(about, losses, method="wanda"):
    for what, slot in SLOTS.items():
        metric = "perplexity" if what == "text" else "bits_per_byte"
        value = 2.0 * (1 + losses[what])
        one = fake_records.record(method=method, identity=slot | about)
        one.readings = [ReadingRow(metric=metric, value=value, unit="1", better="lower", n=9)]
        yield one


@pytest.fixture
def method(script):
    (found,) = script.methods_of(records(range(3)))
    return found


def test_losses(script, method):
    assert method.name == "tiny: wanda at 2:4"
    assert method.worst("wiki") == ("code", pytest.approx(0.3))
    assert method.worst("code") == ("reading", pytest.approx(0.25))
    assert "| wiki | 30.00% | 10.00% | 10.00% | code |" in script.losses(method)
    said = script.answer(method)
    assert said.startswith("code loses least where it loses most: 25.00% on reading.")
    assert "Code is the track that loses most with 1 of 2 texts (wiki)." in said
    assert "<svg" in script.heat_map(method)


def test_variance_parts(script, method):
    """Sources differ by 0.1 on the text, and draws by 0.01: variances 0.005 and 0.0001."""
    source, draw = script.variance_parts(method, "text wiki-mini")
    assert draw == pytest.approx(0.0001)
    assert source == pytest.approx(0.005 - 0.0001 / 3)
    assert math.isnan(script.variance_parts(method._replace(cells={}), "code")[0])


def test_too_few_draws(script):
    (found,) = script.methods_of(records(range(2)))
    assert "names no best text" in script.page([found])
