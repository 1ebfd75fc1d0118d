"""Baselines as files: what they keep, and that what is no baseline is refused in a sentence."""

import json
import math
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bench.comparing import baseline
from bench.comparing.result_arguments import read
from bench.results.record import Item, ReadingRow
from helpers import fake_records
from helpers.hostile_results import ZIPS, bytes_of_zip, file_of, manifest, zipped
from helpers.limits import limits
from methods.contract.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Results, and a baseline of them."""
    home = tmp_path_factory.mktemp("made")
    root = home / "results"
    fake_records.perplexity(root, method="wanda", seed=0, notes={"curve": [1] * 1000})
    fake_records.accuracy(root, method="wanda", seed=0)
    fake_records.counted(root, "violated_groups", 0.0)
    fake_records.failed(root, method="cast", traceback="no")
    baseline.write(read(root), home / "b.zip")
    return home


@pytest.fixture
def results(made, tmp_path):
    return shutil.copytree(made / "results", tmp_path / "results")


@pytest.fixture
def kept(made, tmp_path):
    return Path(shutil.copy(made / "b.zip", tmp_path))


def test_records_and_scores_come_back(results, kept):
    before, after = read(results), read(kept)

    assert {r.key for r in before.records} == {r.key for r in after.records}
    for record in after.records:
        assert record.notes == {} and record.traceback == ""
        if record.items is None:
            continue
        mine, theirs = after.items(record), before.items(record)
        for field in ("ids", "clusters", "weights"):
            assert np.array_equal(getattr(mine, field), getattr(theirs, field))
        assert np.array_equal(mine.columns["value"], theirs.columns["value"])


def test_timings_of_engines_come_back(tmp_path):
    before = read(Path(__file__).parents[3] / "results" / "speed-engines")
    after = baseline.read(baseline.write(before, tmp_path / "b.zip"))
    assert {r.key for r in after.records} == {r.key for r in before.records}


def test_the_same_records_give_the_same_bytes(results, kept, tmp_path):
    again = baseline.write(read(results), tmp_path / "c.zip")
    assert again.read_bytes() == kept.read_bytes()


def test_further_metrics_of_one_measure_stay_its_own(results, tmp_path):
    """acc_norm stands beside acc; windows have none."""
    items = [Item(str(i), str(i), i % 2, 1.0, {"acc_norm": 0.5}) for i in range(4)]
    rows = [
        ReadingRow(metric=metric, value=0.5, unit="1", better="higher")
        for metric in ("acc", "acc_norm")
    ]
    made = fake_records.record("x", measure="zeroshot", protocol="piqa@1.0")
    fake_records.put(results, made, items, rows)

    side = read(baseline.write(read(results), tmp_path / "d.zip"))

    names = {
        (r.identity.method, r.identity.measure): set(side.items(r).columns)
        for r in side.records
        if r.items
    }
    assert names["x", "zeroshot"] == {"value", "acc_norm"}
    assert names["wanda", "perplexity"] == {"value"}


def test_a_gate_takes_the_folder_the_file_and_the_name(results, cli, output, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "4 records" in output("baseline", "set", "main", "--results", results)
    for given in (results, "results/baselines/main.zip", "main"):
        output("gate", "--baseline", given, "--results", results)
    listed = json.loads(cli("baseline", "ls", "--json")[1])
    assert [(r["baseline"], r["records"], r["commits"]) for r in listed] == [("main", 4, "c" * 12)]
    shown = json.loads(cli("baseline", "show", "main", "--json")[1])
    assert {r["metric"] for r in shown} == {"perplexity", "acc", "violated_groups", "failed"}


def garble(content):
    """Other bytes where the packed records begin."""
    start = content.index(b"records.jsonl") + len("records.jsonl")
    content[start : start + 8] = b"\xff" * 8


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "b.zip").write_bytes(b"not a zip"), "cannot read"),
        (bytes_of_zip(garble), "cannot read"),
        (manifest(format=math.inf), "cannot read"),
        (zipped(lambda files: files.pop(baseline.ITEMS)), "cannot read"),
        (ZIPS["manifest of a list"], "cannot read"),
        (ZIPS["bzip2"], "not packed by deflate"),
        (manifest(format=baseline.FORMAT + 1), "its format is 2, not 1"),
        (manifest(schema=99), "upgrade"),
        (file_of(baseline.RECORDS, b"{}\n"), "damaged"),
        (file_of(baseline.ITEMS, b"PAR1"), "damaged"),
        (ZIPS["items of text"], "is not Parquet"),
        (ZIPS["records twice"], "two records of one key"),
        (lambda folder: fake_records.perplexity(folder / "r"), "does not exist"),
    ],
)
def test_what_is_no_baseline_is_one_sentence_and_exit_2(tmp_path, refused, damage, sentence):
    damage(tmp_path)
    said = refused("gate", "--baseline", tmp_path / "b.zip", "--results", tmp_path / "r")
    assert sentence in said and "b.zip" in said


def test_a_record_that_contradicts_itself_is_refused(results, tmp_path):
    side = read(results)
    side.records[0].key = "0" * 64
    with pytest.raises(UserError, match="contradicts itself"):
        baseline.read(baseline.write(side, tmp_path / "c.zip"))


def test_a_small_file_does_not_unpack_to_a_large_one(kept):
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("manifest.json", json.dumps({"format": baseline.FORMAT, "digest": ""}))
        with packed.open("records.jsonl", "w") as stream:
            for _ in range(40):
                stream.write(b" " * 10**6)
        packed.writestr("items.parquet", b"")
    with limits(bytes_=2 * 10**7), pytest.raises(UserError, match="unpacks to more than"):
        baseline.read(kept)


def test_an_unreadable_one_is_listed_as_such(kept, output):
    kept.write_bytes(b"no")
    assert "unreadable" in output("baseline", "ls", "--dir", kept.parent)
