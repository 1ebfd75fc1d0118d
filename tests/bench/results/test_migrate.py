"""Records of older schemas are read and can be written anew; those of newer ones are refused, and stay where they are."""

import json
import os
import shutil
import zipfile

import pytest

from bench.compare import baseline, resolve
from bench.results import migrate
from bench.results.record import parse
from bench.results.rows import newest
from bench.results.schema import SCHEMA, STEPS
from bench.results.store import Store
from bench.system import digests
from helpers import fake_records


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """Three records as schema 1 had them before there was training, and one of today."""
    root = tmp_path / "results"
    for method in ("dense", "magnitude", "wanda"):
        found = fake_records.perplexity(root, method=method)
        age(Store(root).path(found.key))
    fake_records.perplexity(root, method="sparsegpt")
    return root


def age(path, version=1):
    """A record's file as an older schema had it."""
    path.write_text(json.dumps(fake_records.in_schema(json.loads(path.read_text()), version)))
    return path


def old(path):
    return path if "slot" in json.loads(path.read_text()) else age(path)


def rewrite(path, **fields):
    """A record's file with other fields; one that is ... goes."""
    changed = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in changed.items() if v is not ...}))
    return path


def files(root):
    return {p.name: p.read_bytes() for p in sorted((root / "records").glob("*.json"))}


def without_size(record):
    """Older records do not say how large their items' file is."""
    return record.model_copy(update={"items": record.items.model_copy(update={"size": None})})


def versions(root):
    return sorted(json.loads(content)["schema_version"] for content in files(root).values())


def test_every_older_schema_has_its_step():
    assert list(STEPS) == list(range(1, SCHEMA))


def test_an_older_record_is_read_as_todays_and_left_as_it_is(root):
    before = files(root)

    found = list(Store(root))

    assert {r.schema_version for r in found} == {SCHEMA}
    assert all(r.identity.training is None for r in found)
    assert files(root) == before and versions(root) == [1, 1, 1, SCHEMA]


def test_an_older_record_and_todays_share_an_identity(root, tmp_path):
    """Else a table had two rows of one name."""
    old = next(r for r in Store(root) if r.identity.method == "wanda")
    late = {"recorded": "2026-02-01T00:00:00Z"}
    fake_records.perplexity(root, method="wanda", made="b", provenance=late)

    found = [r for r in newest(Store(root)) if r.identity.method == "wanda"]

    assert len(found) == 1 and found[0].key != old.key


def test_migrate_writes_what_was_read_and_nothing_else(root, cli):
    before, read = files(root), {r.key: r for r in Store(root)}

    code, out, _ = cli("migrate", root)

    assert code == 0 and "3 records rewritten" in out and "1 had it already" in out
    assert versions(root) == [SCHEMA] * 4
    assert {r.key: without_size(r) for r in Store(root)} == {k: without_size(r) for k, r in read.items()}
    assert not (root / "older").exists()
    (kept,) = [n for n, c in before.items() if json.loads(c)["schema_version"] == SCHEMA]
    assert files(root)[kept] == before[kept]
    for record in Store(root):
        assert len(Store(root).items(record)) == fake_records.ARTICLES * fake_records.WINDOWS


def test_migrate_seals_what_it_writes(root, cli):
    cli("migrate", root)

    for path in (root / "records").glob("*.json"):
        fake_records.edit_value(path, 12.34)
    assert list(Store(root)) == []


def test_items_that_were_changed_are_not_sealed(root, cli):
    path = next(p for p in sorted((root / "records").glob("*.json")) if "slot" in json.loads(p.read_text()))
    items = root / "items" / f"{path.stem}.parquet"
    items.write_bytes(items.read_bytes()[:-1] + b"0")
    before = path.read_bytes()

    code, _, err = cli("migrate", root)

    assert code == 2 and items.name in err and len(err.splitlines()) == 1
    assert path.read_bytes() == before


def test_migrate_twice_changes_nothing(root, cli):
    cli("migrate", root)
    before = files(root)

    code, out, _ = cli("migrate", root)

    assert code == 0 and "0 records rewritten" in out
    assert files(root) == before


def test_killed_in_between_it_goes_on_with_every_original_kept(root, cli, monkeypatch):
    originals = files(root)
    real, left = os.replace, [4]  # the probe, an original aside, its record, the next original

    def die(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        migrate.migrate_folder(root)
    monkeypatch.undo()

    assert versions(root) == [1, 1, SCHEMA, SCHEMA]
    aside = {p.name: p.read_bytes() for p in (root / "older").glob("*.json")}
    assert len(aside) == 2 and all(originals[name] == content for name, content in aside.items())
    monkeypatch.setenv("CAST_BENCH_CACHE", str(root / "cache"))
    assert migrate.migrate_folder(root) == migrate.MigrationSummary(2, 2)
    assert versions(root) == [SCHEMA] * 4 and not (root / "older").exists()


@pytest.mark.parametrize("extra", [{}, {"a_field_of_tomorrow": 1}, {"identity": "a word"}])
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
        lambda path: rewrite(old(path), status="fine"),
        lambda path: rewrite(old(path), key="0" * 64),
        lambda path: rewrite(old(path), slot=None),
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


def test_a_folder_that_cannot_be_written_may_be_copied(root, cli):
    shutil.rmtree(root / "locks")
    (root / "locks").touch()

    code, _, err = cli("migrate", root)

    assert code == 2 and err.endswith(
        "cannot be written (File exists): name another as DIR, for example a copy of it\n"
    )


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_baseline_of_older_records_is_read(root, tmp_path, version):
    side = resolve.read(root)
    kept = baseline.write(side, tmp_path / "b.zip")
    with zipfile.ZipFile(kept) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    records = [json.loads(line) for line in files[baseline.RECORDS].splitlines()]
    files[baseline.RECORDS] = "".join(json.dumps(fake_records.in_schema(r, version)) + "\n" for r in records).encode()
    digest = digests.of([files[baseline.RECORDS].decode(), files[baseline.ITEMS].hex()])
    manifest = json.loads(files[baseline.MANIFEST]) | {"schema": version, "digest": digest}
    files[baseline.MANIFEST] = json.dumps(manifest).encode()
    with zipfile.ZipFile(kept, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)

    found = baseline.read(kept)

    assert {r.schema_version for r in found.records} == {SCHEMA}
    assert {r.identity.key() for r in found.records} == {r.identity.key() for r in side.records}


def test_merging_writes_todays_schema(root, tmp_path, cli):
    assert cli("merge", root, "--results", tmp_path / "joined")[0] == 0

    assert versions(tmp_path / "joined") == [SCHEMA] * 4


def test_the_key_stays_the_digest_of_what_was_hashed(root):
    path = next((root / "records").glob("*.json"))
    before = json.loads(rewrite(old(path), determinants={"model": "x", "tokenizer": "t", "measure": {}}).read_text())

    found = parse(path.read_bytes(), "here")

    assert found.key_inputs == {"model": "x", "tokenizer": "t", "measure": {}} and found.key == before["key"]
    assert found.artifact == digests.of({"model": "x"})


def test_a_folder_of_originals_is_not_read_as_records(root, tmp_path):
    shutil.copytree(root / "records", root / "older")

    assert len(list(Store(root))) == 4


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        ({"protocol": "wiki-mini@128"}, {"protocol": {"name": "wiki-mini", "seqlen": 128}}),
        ({"protocol": "wikitext2@512x40"}, {"protocol": {"name": "wikitext2", "seqlen": 512, "limit": 40}}),
        (
            {"measure": "zeroshot", "protocol": "piqa@1.0x20"},
            {"protocol": {"name": "piqa", "version": "1.0", "limit": 20}},
        ),
        ({"measure": "speed", "protocol": "linears@16"}, {"protocol": {"name": "linears", "seqlen": 16}}),
        ({"measure": "size", "protocol": "weights"}, {"protocol": {"name": "weights"}}),
        ({"method": "sparsegpt + retrain:from=sparsegpt"}, {"stages": ("sparsegpt", "retrain:from=sparsegpt")}),
        (
            {"method": "cast:floor=0.1:clip=2:gain=100"},
            {"stages": ("cast:final_lr_ratio=0.1:grad_clip=2:lambda_scale=100",)},
        ),
        ({"calibration": "c4@64x128"}, {"calibration": {"data": "c4", "seqlen": 64, "sequences": 128}}),
        (
            {"training": "wiki-mini, 1,228,800 tokens"},
            {"training": {"data": "wiki-mini", "tokens": 1_228_800}},
        ),
        ({"training": "anything else"}, {"training": {"data": "anything else"}}),
        (
            {"training": "a@b@128x32, 1,200,000 tokens"},
            {"training": {"data": "a@b", "seqlen": 128, "batch": 32, "tokens": 1_200_000}},
        ),
    ],
)
def test_text_of_older_schemas_becomes_fields(labels, parts):
    slot = {"model": "m", "method": "wanda", "pattern": "2:4", "measure": "perplexity", "protocol": "p"} | labels

    identity = fake_records.identity_of(**slot)

    values = identity.model_dump(exclude_none=True)
    assert {k: values[k] for k in parts} == parts
    if "floor" not in slot["method"]:
        assert {k: identity.labels()[k] for k in labels} == labels
