"""The tables of calibration texts, from records that are made up."""

from types import SimpleNamespace

import pytest

from bench.results.record import ReadingRow
from helpers import fake_records

SCRIPT = "calibration_tables"
SLOTS = {
    "text": {"measure": "perplexity", "protocol": "wiki-mini@128"},
    "code": {"measure": "answers", "protocol": "code/mbpp@3-shot"},
    "reading": {"measure": "answers", "protocol": "reading/squad@5-shot"},
}
LOSSES = {
    "wiki-mini": {"text": 0.1, "code": 0.3, "reading": 0.1},
    "code": {"text": 0.2, "code": 0.1, "reading": 0.25},
    "random": {"text": 0.5, "code": 0.5, "reading": 0.6},
}


def records(seeds, sources=tuple(LOSSES)):
    """Each loss is 0.01 lower with seed 0, and higher with seed 2."""
    found = [*of_row({}, dict.fromkeys(SLOTS, 0.0), method="dense")]
    for source in sources:
        for seed in seeds:
            about = {"seed": seed, "calibration": f"{source}@128x16"}
            losses = {what: loss + 0.01 * (seed - 1) for what, loss in LOSSES[source].items()}
            found += of_row(about, losses)
    return found


def of_row(about, losses, method="wanda"):
    """A dense model of 2 bits, per token of a text and per byte of answers."""
    for what, slot in SLOTS.items():
        bits = 2.0 * (1 + losses[what])
        metric, value = "bits_per_byte", bits
        if what == "text":
            metric, value = "perplexity", 2**bits
        one = fake_records.record(method=method, identity=slot | about)
        one.cost = {"wall_s": 360.0} | ({"build_s": 720.0} if what == "text" else {})
        one.readings = [ReadingRow(metric=metric, value=value, unit="1", better="lower", n=9)]
        yield one


@pytest.fixture
def method(script):
    (found,) = script.methods_of(records(range(3)), tuple(LOSSES))
    return found


def test_the_text_that_loses_least_where_it_loses_most(script, method):
    """The noise of a difference: 0.01 * sqrt(2 / 3), times Student's t with 4 degrees of freedom
    and a level of 5% over two comparisons, 3.495."""
    assert method.name == "tiny wanda 2:4"
    assert method.mean("wiki-mini", "code, answers") == pytest.approx(0.3)
    assert method.worst("code") == "reading, answers"
    assert script.answer(method) == (
        "`code`: 25.0% on reading, answers",
        "30.0% on code, answers",
        "**5.0** (2.1 to 7.9)",
    )
    assert script.code_first(method) == "1 of 3: `wiki-mini`"
    assert script.code_first(method._replace(sources=("code",))) == "0 of 1"


def test_a_difference_within_the_noise(script, method):
    wide = [0.2, 0.3, 0.4]
    noisy = method._replace(cells=method.cells | {("wiki-mini", "code, answers"): wide})
    assert script.answer(noisy)[2].startswith("5.0 (-")


def test_the_default_may_be_best(script, method):
    assert script.answer(method._replace(sources=("wiki-mini", "random")))[2] == script.DASH


def test_parts_of_the_variance(script, method):
    """Texts but the control differ by 0.1 on the text, and draws by 0.01: variances 0.005 and
    0.0001."""
    text, draw = script.variance_parts(method, "wiki-mini, perplexity")
    assert draw == pytest.approx(0.0001)
    assert text == pytest.approx(0.005 - 0.0001 / 3)
    assert "| tiny wanda 2:4 |" in script.variances([method])
    assert script.variances([method]).splitlines()[2].endswith("| 98% (7.0, 1.0) |")


def test_a_study_of_which_a_part_is_measured(script):
    made = records(range(3), ["wiki-mini"]) + records(range(2), ["code"])
    (found,) = script.methods_of([one for one in made if one.identity.measure == "answers"
                                  or one.identity.seed != 2], tuple(LOSSES))  # fmt: skip
    assert found.lacking() == {"wiki-mini": "wiki-mini, perplexity", "code": "everything"}
    assert found.sources == ("wiki-mini", "code")
    del found.cells["code", "code, answers"]
    assert "–" in script.heat_map(found)


def test_passages_and_a_picture(script, method):
    assert "| `code` | 9 of code | 3 | 0 |" in script.shared("results/calibration")
    picture = script.heat_map(method)
    assert "29.0 to 31.0" in picture
    assert "<svg" in picture


def test_the_blocks_of_the_page(script, monkeypatch):
    made = SimpleNamespace(records=records(range(3), ["wiki-mini"]))
    monkeypatch.setattr(script, "read", lambda _: made)
    page = script.losses("results/calibration")
    assert "![losses](figures/calibration-tiny-wanda-2-4.svg)" in page
    assert "Not measured here: `code`, `random`" in page
    assert "No text is best" not in page and "variance" not in page
    assert "| tiny wanda 2:4 | – | – | – | 1 of 1: `wiki-mini` |" in page
    assert "| `wiki-mini` | 1.50 |\n| none | 0.50 |\n| all | 2.00 |" in script.hours("any")


def test_a_draw_that_lacks_a_task_does_not_count(script):
    made = records(range(3))
    for one in [*made]:
        if one.identity.measure == "answers" and one.identity.seed != 2:
            other = fake_records.of_identity(one, protocol=one.identity.protocol.model_copy(
                update={"name": f"{one.identity.protocol.name}_2"}))  # fmt: skip
            made.append(other)
    (found,) = script.methods_of(made, tuple(LOSSES))
    assert found.lacking()["code"] == "code, answers and reading, answers"
