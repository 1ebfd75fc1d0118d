"""What a machine has computed before is found by content alone."""

import json

import pytest

from bench.cli import listing
from bench.comparing import result_arguments
from bench.reporting import pairwise
from bench.results import computed, record_check
from bench.results.store import ReadOnlyStore
from helpers import fake_records, runs

OPEN = computed._open


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of answers, which are remembered."""
    monkeypatch.setattr(computed, "_open", OPEN)
    return runs.own_cache(tmp_path, monkeypatch) / computed.PART


@pytest.fixture
def results(tmp_path):
    for noise, method in enumerate(("dense", "wanda", "magnitude", "sparsegpt")):
        fake_records.perplexity(tmp_path / "r", noise / 10, noise=noise, method=method)
        fake_records.bits(tmp_path / "r", 8.0 + noise, method=method)
    return tmp_path / "r"


def other_process():
    """Forget what this process holds, so that answers come from the file."""
    computed._memory.cache_clear()


def refuse(*_, **__):
    raise AssertionError("computed again")


@pytest.mark.parts("leaderboard")
def test_a_warm_report_computes_nothing_again_and_is_the_same(cache, results, monkeypatch):
    from bench.parts.leaderboard import board_files, table_figures

    cold = board_files.build([results], None)
    other_process()
    monkeypatch.setattr(record_check, "check_record", refuse)
    monkeypatch.setattr(pairwise, "_compare", refuse)
    monkeypatch.setattr(table_figures, "draw_fronts", refuse)
    assert board_files.build([results], None) == cold
    assert {file.suffix for file in cache.iterdir()} == {".sqlite"}


def test_answers_depend_on_the_code_that_gives_them_and_on_no_other():
    files = computed._closure("bench.reporting.pairwise")
    assert {"bench.stats.mcnemar", "bench.measures.size", "methods.contract.measure_info"} <= set(
        files
    )
    assert not {"bench.cli.main", "bench.execution.build", "bench.parts.gguf.files"} & set(files)


def test_a_record_of_other_content_is_checked(cache, results):
    assert len(result_arguments.read(results).records) == 8
    other_process()
    path = next(p for p in (results / "records").iterdir() if json.loads(p.read_text())["items"])
    readings = json.loads(path.read_text())["readings"]
    readings[0]["value"] *= 2
    fake_records.edit(path, seal=True, readings=readings)
    store = ReadOnlyStore(results)
    assert len(list(store)) == 7
    assert "does not hold" in store.damaged[0]


def test_items_of_other_content_are_refused(cache, results):
    list(ReadOnlyStore(results))
    other_process()
    path = next((results / "items").iterdir())
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    store = ReadOnlyStore(results)
    assert len(list(store)) == 7 and store.damaged


def test_a_changed_record_has_another_line_in_a_list(cache, results):
    before = listing.rows("runs", False, results)
    other_process()
    assert listing.rows("runs", False, results) == before
    path = next((results / "records").iterdir())
    fake_records.edit(path, seal=True, status="skipped", readings=[], items=None)
    assert [row["status"] for row in listing.rows("runs", False, results)].count("skipped") == 1


def test_a_damaged_file_holds_nothing(cache):
    cache.mkdir()
    path = cache / "answers.sqlite"
    known = computed.Memory(path)
    known.put("answer", "question")
    known.save()
    assert computed.Memory(path).get("question") == "answer"
    path.write_bytes(b"no database" * 1000)
    assert computed.Memory(path).get("question") is None


def test_nothing_is_remembered_beside_a_plug_in(cache, results, monkeypatch):
    monkeypatch.setattr("bench.catalog.registry.has_plugins", lambda kind: kind == "measures")
    list(ReadOnlyStore(results))
    assert not cache.exists()
