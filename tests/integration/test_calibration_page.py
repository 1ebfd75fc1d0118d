"""The page of calibration texts, from records that are made up."""

import math

from tests.helpers import fake_records as fakes
import pytest

from bench.results.record import ReadingRow

SCRIPT = "calibration_page"
TEXT = {"measure": "perplexity", "protocol": "wiki-mini@128"}
CODE = {"measure": "answers", "protocol": "code/mbpp@3-shot"}
READING = {"measure": "answers", "protocol": "reading/squad@5-shot"}
LOSSES = {"wiki": {"text": 0.1, "code": 0.3, "reading": 0.1}}
LOSSES["code"] = {"text": 0.2, "code": 0.1, "reading": 0.25}


def write(root, seeds):
    """Each loss is 0.01 lower with seed 0, and higher with seed 2."""
    put(root, {}, dict.fromkeys(("text", "code", "reading"), 0.0), method="dense")
    for source, losses in LOSSES.items():
        for seed in seeds:
            about = {"seed": seed, "calibration": f"{source}@128x16"}
            put(root, about, {what: x + 0.01 * (seed - 1) for what, x in losses.items()})


def put(root, about, losses, method="wanda"):
    for what, slot in (("text", TEXT), ("code", CODE), ("reading", READING)):
        metric = "perplexity" if what == "text" else "bits_per_byte"
        value = 2.0 * (1 + losses[what])
        row = ReadingRow(metric=metric, value=value, unit="1", better="lower", n=9)
        record = fakes.record(method=method, identity=slot | about, seed=about.get("seed"))
        fakes.put(root, record, (), [row])


@pytest.fixture
def method(script, tmp_path):
    write(tmp_path, range(3))
    (found,) = script.methods_of(script.read(str(tmp_path)).records)
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


def test_too_few_draws(script, tmp_path):
    write(tmp_path, range(2))
    (found,) = script.methods_of(script.read(str(tmp_path)).records)
    assert "names no best text" in script.page([found])
