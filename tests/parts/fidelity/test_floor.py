"""The measure `floor`: a model beside itself, and what a report makes of it."""

import pytest

from bench.comparing import result_arguments
from bench.parts.fidelity import in_reports
from bench.reporting import board
from bench.results.store import ReadOnlyStore
from helpers import runs

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of tiny and of its rounded row."""
    folder = tmp_path_factory.mktemp("floor")
    with pytest.MonkeyPatch.context() as patch:
        runs.own_cache(folder, patch)
        spec = runs.small(
            folder / "r",
            methods=("dense",),
            quantizers=("none", "int8"),
            measures=("perplexity", "agreement", "floor", "size"),
            perplexity={"windows": 8, "seqlen": 32},
        )
        runs.run_here(spec)
        yield ReadOnlyStore(spec.results), spec.results


def test_it_is_the_condition_that_moves_the_model_most(records):
    store, _ = records
    (record,) = [
        one
        for one in store
        if one.identity.measure == "floor"
        and (one.identity.method, one.identity.quantizer) == ("dense", "none")
    ]
    (reading,) = record.readings
    by_condition = record.notes["floor"]
    items = store.items(record)

    assert {"bfloat16", "one window at a time", "the other attention kernel"} < by_condition.keys()
    assert (
        reading.value
        == by_condition["bfloat16"]["kl"]
        == max(one["kl"] for one in by_condition.values())
    )
    assert 1e-6 < reading.value < by_condition["bfloat16"]["kl_p99"] < 0.1
    assert items.columns["value"].sum() / items.weights.sum() == pytest.approx(reading.value)
    assert record.token_digest == next(
        one.token_digest for one in store if one.identity.measure == "perplexity"
    )


def test_a_report_shows_it(records, output, tmp_path):
    _, results = records
    (section,) = board.make_sections([result_arguments.read(results)])
    table = section.tables[0]
    floor = in_reports.floor_of(table)
    (text,) = in_reports.text_tables(table)
    output("report", "--results", results, "--out", tmp_path / "o", "--papers", "none")

    assert floor > 1e-6
    assert text.notes == (f"Floor: mean KL {floor:#.3g}.",)
    assert text.notes[0] in (tmp_path / "o/leaderboard.md").read_text()
