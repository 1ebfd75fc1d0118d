"""bench check: every record as it was written, every number what its items give."""

import json
import math
import shutil

import pytest

from bench.results.check import check_folder
from bench.results.record import Item, ReadingRow
from bench.results.store import Store
from helpers import fake_records


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "results"
    fake_records.perplexity(root)
    fake_records.accuracy(root)
    fake_records.latency(root)
    fake_records.counted(root, "violated_groups", 0.0)
    return root


def path_of(root, measure):
    return next(Store(root).path(r.key) for r in Store(root) if r.identity.measure == measure)


def test_a_sound_folder(root, cli):
    code, out, err = cli("check", root)

    assert code == 0 and err == ""
    assert out == f"{root}: 4 records, 0 damaged, 2 numbers computed again\n"  # medians of times are not


@pytest.mark.parametrize("measure", ["perplexity", "zeroshot"])
def test_a_number_that_its_items_do_not_give(root, cli, measure):
    """Its digest is right: whoever wrote it took the number from elsewhere."""
    path = path_of(root, measure)
    before = json.loads(path.read_text())["readings"][0]["value"]
    fake_records.edit_value(path, before * (1 + 1e-6), seal=True)

    code, out, err = cli("check", root)

    assert code == 1 and "delete them" in err
    assert out.startswith(f"damaged: {path}: its ") and f"but its items give {before:.9g}" in out


def test_a_number_edited_by_hand(root, cli):
    path = path_of(root, "perplexity")
    fake_records.edit_value(path, 12.34)

    code, out, _ = cli("check", root)

    assert code == 1 and f"damaged: {path} is no record (it was changed after it was written" in out
    assert path.exists()  # it is looked at, not moved


@pytest.mark.parametrize("command", ["gate", "compare"])
def test_a_number_edited_by_hand_is_compared_with_nothing(root, tmp_path, cli, command):
    before = shutil.copytree(root, tmp_path / "before")
    path = path_of(root, "perplexity")
    fake_records.edit_value(path, 12.34)

    code, out, err = (
        cli("gate", "--baseline", before, "--results", root) if command == "gate" else cli(command, before, root)
    )

    assert code == 2 and str(path) in err and "changed after it was written" in err
    assert "IMPROVED" not in out


def test_further_metrics_of_an_item_are_computed_too(tmp_path):
    items = [Item(str(i), "a", 2.0 * i, 2.0, {"top1_agreement": 1.0}) for i in range(3)]
    rows = [
        ReadingRow(metric="kl", value=1.0, unit="nats/token", better="lower"),
        ReadingRow(metric="top1_agreement", value=0.75, unit="1", better="higher"),
    ]
    fake_records.put(tmp_path, fake_records.record(measure="agreement"), items, rows)

    found = check_folder(tmp_path)

    assert found.recomputed == 2
    assert len(found.problems) == 1 and "top1_agreement is 0.75, but its items give 0.5" in found.problems[0]


def test_a_diverged_number_is_not_computed(tmp_path):
    row = ReadingRow(metric="perplexity", value=None, unit="1", better="lower")
    fake_records.put(tmp_path, fake_records.record(status="diverged"), [Item("0", "a", math.inf, 1.0)], [row])

    assert check_folder(tmp_path).problems == ()


def test_items_that_are_no_table(root):
    store = Store(root)
    record = next(r for r in store if r.identity.measure == "perplexity")
    store.items_path(record).write_bytes(b"PAR1")
    record.items.size, record.items.sha256 = 4, "d" * 64
    store.write(record)

    (problem,) = check_folder(root).problems

    assert "cannot be read" in problem


@pytest.mark.parametrize("items", [[("0", "a", 1.0, 0.0)], [("0", "a", "much", 1.0)], [("0", "a", 1e5, 1.0)]])
def test_items_that_give_no_number_are_reported(tmp_path, items):
    reading = ReadingRow(metric="perplexity", value=1.0, unit="1", better="lower")
    fake_records.put(tmp_path, fake_records.record(), [Item(*item) for item in items], [reading])

    (problem,) = check_folder(tmp_path).problems

    assert "cannot be read" in problem


def test_what_belongs_to_no_record_is_listed_and_is_no_damage(root, cli):
    for name in ("items/0000.parquet", "items/.half.tmp", "corrupt/a.json.1"):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.touch()

    code, out, _ = cli("check", root)

    assert code == 0
    assert out.count("belongs to no record") == 3


def test_no_results_folder(tmp_path, cli):
    code, _, err = cli("check", tmp_path)

    assert code == 2 and "no results folder" in err and len(err.splitlines()) == 1
