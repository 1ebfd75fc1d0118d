"""Records: whole or not there, and never taken for what they are not."""

import errno
import json
import math
import os
from pathlib import Path

import pytest

from bench.results.record import RENAMED_MODELS, SCHEMA, Item, Reading, ReadingRow
from bench.results.store import ReadOnlyStore, Store, is_disk_full
from bench.system.files import atomic_write
from helpers import fake_records, runs
from methods.contract.errors import UserError

(RENAMED,) = RENAMED_MODELS
ITEMS = (Item("0", "a", 1.5, 2.0), Item("1", "a", 2.5, 2.0))


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def record(made="a", **fields):
    reading = ReadingRow(metric="m", value=1.0, unit="", better="")
    about = {"measure": "mine", "protocol": "p", "readings": [reading], "token_digest": ""}
    return fake_records.record("dense", made=made, **about | fields)


KEY, OTHER = record().key, record("b").key


def temporaries(store):
    return [p.name for p in store.root.rglob("*") if p.name.endswith(".tmp")]


def test_what_is_written_is_read(store):
    store.write(record(notes={"a": [1, 2]}), ITEMS)
    got = store.get(KEY)
    assert got.notes == {"a": [1, 2]}
    items = store.items(got)
    columns = (items.ids, items.clusters, items.columns["value"], items.weights)
    assert list(zip(*columns, strict=True)) == [i[:4] for i in ITEMS]
    assert not temporaries(store)


@pytest.mark.parametrize("digest", [RENAMED[1], "another model"])
def test_a_record_of_a_renamed_model_has_its_name_of_today(store, digest):
    """Only with the weights that had the old name: another model has it now."""
    former, today = RENAMED[0], RENAMED_MODELS[RENAMED]
    old = record(identity={"model": former}, key_inputs={"model": digest})
    store.write(old)
    (named,) = store.names()
    assert named.identity.model == (today if digest == RENAMED[1] else former)
    assert store.get(old.key).identity == named.identity


def test_a_changed_record_is_in_a_list_and_nowhere_else(store):
    store.write(record())
    fake_records.edit_value(store.path(KEY), 2.0)
    assert [named.key for named in ReadOnlyStore(store.root).names()] == [KEY]
    assert list(ReadOnlyStore(store.root)) == list(ReadOnlyStore(store.root).checked()) == []
    assert store.get(KEY) is None


@pytest.mark.parametrize(
    ("about", "kind"),
    [
        ({"cpu_model": "25/1/1", "instruction_set": "avx2"}, "AMD EPYC (Zen 3, AVX2)"),
        ({"cpu_model": "25/17/1", "isa": "AVX512"}, "AMD EPYC (Zen 4, AVX512)"),
        ({"cpu_model": "1/1/1"}, "AMD EPYC"),
        ({"cpu_model": "25/1/1", "device": "L4"}, "L4"),
    ],
)
def test_a_processor_has_its_generation_and_instructions(about, kind):
    """Milan and Genoa are both called AMD EPYC."""
    assert record(provenance={"machine": {"cpu": "AMD EPYC", **about}}).processor_kind == kind


@pytest.mark.parametrize("folder", ["records", "items"])
def test_what_a_killed_process_left_is_swept_and_what_is_being_written_is_not(store, folder):
    store.write(record(), ITEMS)
    left = store.root / folder / ".left.tmp"
    left.touch()
    ReadOnlyStore(store.root)
    assert left.exists()

    with atomic_write(store.root / folder / "new") as held:
        Store(store.root)
        assert held.exists()

    assert not left.exists() and (store.root / folder / "new").exists()
    assert store.get(KEY) is not None


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_write_leaves_the_old_record(store, monkeypatch, call):
    store.write(record(reason="old"))
    before = store.path(KEY).read_bytes()

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="no"):
        store.write(record(reason="new"))

    assert store.path(KEY).read_bytes() == before
    assert not temporaries(store)


def test_truncated_record_is_moved_aside_and_named(store):
    store.write(record())
    path = store.path(KEY)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    assert store.get(KEY) is None
    assert not path.exists()
    (aside,) = (store.root / "corrupt").iterdir()
    assert aside.read_bytes() == whole[: len(whole) // 2]
    assert len(store.damaged) == 1
    assert str(path) in store.damaged[0] and str(aside) in store.damaged[0]


def test_a_record_whose_items_this_user_cannot_read_stays(store, monkeypatch):
    store.write(record(), ITEMS)
    items, read = store.items_path(store.get(KEY)), Path.read_bytes

    def refuse(path):
        if path == items:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError):
        store.get(KEY)
    assert store.path(KEY).exists() and not store.damaged


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("report",), 0),
        (("ls", "runs"), 0),
        (("show", KEY), 2),
        pytest.param(("export", KEY, "--out", "new"), 2, marks=pytest.mark.parts("exports")),
        pytest.param(("scaling",), 2, marks=pytest.mark.parts("scaling")),
        (("compare", "dense", "dense"), 2),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_who_only_reads_names_a_truncated_record_and_moves_nothing(
    tmp_path, monkeypatch, cli, command, expected
):
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "r")
    store.write(record("b"))
    store.path(KEY).write_text("{")
    code, _, err = cli(*command, "--results", tmp_path / "r")
    assert code == expected and f"{store.path(KEY)} is no record" in err
    assert store.path(KEY).exists() and not (tmp_path / "r/corrupt").exists()


def items_of(store):
    return next((store.root / "items").iterdir())


def cut(end):
    """Return a function that replaces the last byte of the items."""
    return lambda store: items_of(store).write_bytes(items_of(store).read_bytes()[:-1] + end)


def edited(**fields):
    return lambda store: fake_records.edit(store.path(KEY), **fields)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda store: store.path(KEY).rename(store.path(OTHER)), "its own key"),
        (lambda store: items_of(store).unlink(), "lost its items"),
        (cut(end=b"\0"), "checksum mismatch"),
        (cut(end=b""), "checksum mismatch"),
        (edited(reason="because"), "changed after it was written"),
        (edited(digest=None), "changed after it was written"),
        (edited(digest="0" * 64), "changed after it was written"),
    ],
)
def test_a_record_that_was_changed_is_no_record(store, damage, said):
    """Also one with items of the same size: what a run takes for done, it never measures again."""
    store.write(record(notes={"a": 1}), ITEMS)
    damage(store)
    assert [store.get(key) for key in (KEY, OTHER)] == [None, None] and said in store.damaged[0]


def test_a_record_written_in_another_layout_is_the_same(store):
    """As a tool for JSON may leave it: keys in another order, other spaces."""
    store.write(record(notes={"a": 1.0e-7, "ü": [None, True]}), ITEMS)
    path = store.path(KEY)
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True, indent=4))
    assert store.get(KEY).notes == {"a": 1.0e-7, "ü": [None, True]}


@pytest.mark.parametrize(
    "fields",
    [
        {"readings": [{"metric": "a", "value": None, "stderr": -0.5, "unit": "", "better": ""}]},
        {"readings": [{"metric": "a", "value": "5", "unit": "", "better": ""}]},
        {"readings": [{"metric": "a", "value": True, "unit": "", "better": ""}]},
        {"status": "fine"},
        {"key": None},
        {"notes": None},
        {"provenance": "text"},
        {"provenance": {"commit": "text"}},
        {"provenance": {"recorded": "2026-02-30T00:00:00Z"}},
        {"provenance": {"commit": {"time": "2026-02-30T00:00:00Z"}}},
        {"provenance": {"machine": {"cpu": ["EPYC"]}}},
        {"provenance": {"versions": {"torch": 2.9}}},
        {"cost": {"wall_s": "long"}},
        {"cost": {"build_s": 1e308}},
        {"items": {"file": "a", "rows": "2", "sha256": "0"}},
        {"identity": {"model": "m", "stages": "dense", "pattern": "dense"}},
    ],
    ids=str,
)
def test_a_digest_does_not_make_a_record(store, fields):
    store.write(record())
    store.write(record("b"))
    fake_records.edit(store.path(KEY), seal=True, **fields)
    assert [r.key for r in store] == [OTHER] and "is no record" in store.damaged[0]


def test_a_record_larger_than_any_is_not_parsed(store, monkeypatch):
    store.write(record())
    monkeypatch.setattr("bench.results.store.MAX_BYTES", 100)
    assert store.get(KEY) is None
    assert "more than 100" in store.damaged[0]


@pytest.mark.parametrize(
    ("version", "remedy"),
    [(SCHEMA + 1, "upgrade"), (SCHEMA - 1, "measure it again"), (0, "measure it again")],
)
def test_another_schema_is_named_and_the_rest_is_read(store, cli, version, remedy):
    """The other fields do not matter: the record is not corrupt, and is not moved aside."""
    store.write(record())
    fake_records.edit(store.path(KEY), schema_version=version, identity="a word")
    fake_records.perplexity(store.root)

    said = f"{store.path(KEY)} has schema {version}, but this version reads only schema {SCHEMA}"
    for command, code in (
        (("report", "--results"), 0),
        (("check",), 1),
        (("merge", "--results", store.root.parent / "joined"), 2),
        (("pick", "--model", "tiny", "--results"), 2),
    ):
        found, out, err = cli(*command, store.root)
        assert found == code and (out + err).count(f"{said}: {remedy}") == 1
        assert code == 2 or "perplexity" in out or "1 record read" in out
    assert list(store) and store.path(KEY).exists()


@pytest.mark.parametrize("version", ["4", 4.0, True, None, [4]])
def test_a_schema_that_is_no_number_does_not_skip_the_digest(store, version):
    store.write(record())
    fake_records.edit(store.path(KEY), schema_version=version, reason="edited")
    assert list(store) == []
    assert "not a whole number" in store.damaged[0]


def test_json_never_contains_nan(store):
    store.write(record(notes={"a": math.nan, "b": [math.inf]}))
    json.loads(store.path(KEY).read_text(), parse_constant=pytest.fail)
    assert store.get(KEY) is not None


def test_diverged_is_a_status_and_no_number(tmp_path, monkeypatch):
    from bench.measures.contract import Readings
    from bench.measures.size import Size

    reading = Reading("bits_per_weight", math.nan, "1", "lower", stderr=math.inf)
    monkeypatch.setattr(Size, "read", lambda *_: Readings((reading,), ITEMS))

    found = runs.measured(tmp_path / "r", methods=("dense",), measures=("size",))
    got = found["dense", None, "size"]

    assert (got.status, got.reason) == ("diverged", "bits_per_weight is nan")
    assert [(r.value, r.stderr) for r in got.readings] == [(None, None)]
    assert got.items is None


def test_find_wants_exactly_one_that_is_sound(store):
    sound, other = (fake_records.perplexity(store.root, made=made) for made in "ab")
    fake_records.edit_value(store.path(other.key), 9.9, seal=True)
    assert store.find(sound.key[:12]).key == sound.key
    for prefix in ("", "x"):
        with pytest.raises(UserError, match=r"bench ls runs --results .* lists them"):
            store.find(prefix)
    with pytest.raises(UserError, match="its items give"):
        store.find(other.key)


def test_a_quota_that_is_used_up_is_a_full_disk_and_not_another_folder_s_fault(
    tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="quota") as caught:
        Store(tmp_path / "r")
    assert is_disk_full(caught.value) and is_disk_full(OSError("16384 requested and 9072 written"))
    assert not is_disk_full(ValueError("memory requested and not available"))
