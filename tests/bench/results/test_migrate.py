"""Records of older schemas are read and can be written anew; those of newer ones are refused, and stay where they are."""

import json
import shutil

import pytest

from bench.compare import baseline, resolve, result_set
from bench.results import migrate
from bench.results.record import identity_key, parse
from bench.results.rows import newest
from bench.results.schema import SCHEMA, STEPS
from bench.results.store import Store
from bench.system import cache as cache_module
from helpers import fake_records


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """Three records as schema 1 had them before there was training, and one of today."""
    root = tmp_path / "results"
    for method in ("dense", "magnitude", "wanda"):
        found = fake_records.perplexity(root, method=method, slot={"training": None})
        rewrite(Store(root).path(found.key), schema_version=1, slot={"training": ...})
    fake_records.perplexity(root, method="sparsegpt", slot={"training": None})
    return root


def rewrite(path, slot=(), **fields):
    """A record's file with other fields; one that is ... goes."""
    told = json.loads(path.read_text()) | fields
    told["slot"] |= dict(slot)
    told["slot"] = {k: v for k, v in told["slot"].items() if v is not ...}
    path.write_text(json.dumps({k: v for k, v in told.items() if v is not ...}))
    return path


def files(root):
    return {p.name: p.read_bytes() for p in sorted((root / "records").glob("*.json"))}


def versions(root):
    return sorted(json.loads(content)["schema_version"] for content in files(root).values())


def test_every_older_schema_has_its_step():
    assert list(STEPS) == list(range(1, SCHEMA))


def test_an_older_record_is_read_as_todays_and_left_as_it_is(root):
    before = files(root)

    found = list(Store(root))

    assert {r.schema_version for r in found} == {SCHEMA}
    assert all(r.slot["training"] is None for r in found)
    assert files(root) == before and versions(root) == [1, 1, 1, SCHEMA]


def test_an_older_record_and_todays_share_a_slot(root, tmp_path):
    """Else a table had two rows of one name."""
    old = next(r for r in Store(root) if r.slot["method"] == "wanda")
    late = {"recorded": "2026-02-01T00:00:00Z"}
    fake_records.perplexity(root, method="wanda", slot={"training": None}, made="b", provenance=late)

    found = [r for r in newest(Store(root)) if r.slot["method"] == "wanda"]

    assert len(found) == 1 and found[0].key != old.key


def test_migrate_writes_what_was_read_and_nothing_else(root, cli):
    before, read = files(root), {r.key: r for r in Store(root)}

    code, out, _ = cli("migrate", root)

    assert code == 0 and "3 records written" in out and "1 had it already" in out
    assert versions(root) == [SCHEMA] * 4
    assert {r.key: r for r in Store(root)} == read
    assert not (root / "older").exists()
    (kept,) = [n for n, c in before.items() if json.loads(c)["schema_version"] == SCHEMA]
    assert files(root)[kept] == before[kept]
    for record in Store(root):
        assert len(Store(root).items(record)) == fake_records.ARTICLES * fake_records.WINDOWS


def test_migrate_twice_changes_nothing(root, cli):
    cli("migrate", root)
    before = files(root)

    code, out, _ = cli("migrate", root)

    assert code == 0 and "0 records written" in out
    assert files(root) == before


def test_killed_in_between_it_goes_on_with_every_original_kept(root, cli, monkeypatch):
    originals = files(root)
    real, left = cache_module.os.replace, [4]  # the probe, an original aside, its record, the next original

    def die(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(cache_module.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        migrate.migrate_folder(root)
    monkeypatch.undo()

    assert versions(root) == [1, 1, SCHEMA, SCHEMA]
    aside = {p.name: p.read_bytes() for p in (root / "older").glob("*.json")}
    assert len(aside) == 2 and all(originals[name] == content for name, content in aside.items())
    monkeypatch.setenv("CAST_BENCH_CACHE", str(root / "cache"))
    assert migrate.migrate_folder(root) == migrate.Migrated(2, 2)
    assert versions(root) == [SCHEMA] * 4 and not (root / "older").exists()


@pytest.mark.parametrize("extra", [{}, {"a_field_of_tomorrow": 1}, {"slot": "a word"}])
def test_a_newer_record_is_refused_and_stays(root, cli, extra):
    """Whatever its fields: it is no corrupt record, and is not moved aside."""
    path = next((root / "records").glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": SCHEMA + 1} | extra))

    for command in (("report", "--results", root), ("migrate", root), ("gate", "--baseline", root, "--results", root)):
        code, _, err = cli(*command)

        assert code == 2 and len(err.splitlines()) == 1
        assert str(path) in err and f"schema {SCHEMA + 1}" in err and f"this version's {SCHEMA}" in err
    assert path.exists() and not (root / "corrupt").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: rewrite(path, schema_version=0),
        lambda path: rewrite(path, schema_version="one"),
        lambda path: rewrite(path, schema_version=...),
        lambda path: rewrite(path, schema_version=1, status="fine"),
        lambda path: rewrite(path, schema_version=1, key="0" * 64),
        lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1, "slot": None})),
    ],
)
def test_what_is_no_record_is_one_sentence_and_stays(root, cli, damage):
    path = sorted((root / "records").glob("*.json"))[-1]
    damage(path)
    content = path.read_bytes()

    code, out, err = cli("migrate", root)

    assert code == 2 and out == "" and len(err.splitlines()) == 1 and str(path) in err
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_no_results_folder(tmp_path, cli, name):
    (tmp_path / "file").touch()

    code, _, err = cli("migrate", tmp_path / name)

    assert code == 2 and "no results folder" in err and len(err.splitlines()) == 1


def test_a_baseline_of_older_records_is_read(root, tmp_path, monkeypatch):
    side = resolve.read(root)
    old = [r.model_copy(update={"schema_version": 1, "slot": _without(r.slot, "training")}) for r in side.records]
    monkeypatch.setattr(baseline, "SCHEMA", 1)
    kept = baseline.write(result_set.ResultSet("old", tuple(old), side.items), tmp_path / "b.zip")
    monkeypatch.undo()
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / "cache"))

    found = baseline.read(kept)

    assert {r.schema_version for r in found.records} == {SCHEMA}
    assert {identity_key(r) for r in found.records} == {identity_key(r) for r in side.records}


def test_merging_writes_todays_schema(root, tmp_path, cli):
    assert cli("merge", root, "--results", tmp_path / "joined")[0] == 0

    assert versions(tmp_path / "joined") == [SCHEMA] * 4


def _without(slot, name):
    return {k: v for k, v in slot.items() if k != name}


def test_the_key_stays_the_digest_of_what_was_hashed(root):
    path = next((root / "records").glob("*.json"))
    told = json.loads(rewrite(path, schema_version=1, determinants={"model": "x"}).read_text())

    found = parse(path.read_bytes(), "here")

    assert found.determinants == {"model": "x"} and found.key == told["key"]


def test_a_folder_of_originals_is_not_read_as_records(root, tmp_path):
    shutil.copytree(root / "records", root / "older")

    assert len(list(Store(root))) == 4
