"""What was believed once: each fault by the commands that believed it."""

import json
import math
import shutil
from pathlib import Path

import pytest

from bench.results.record import ReadingRow
from bench.results.store import ReadOnlyStore, Store
from bench.system import digests
from helpers import fake_records, models
from helpers.installed import with_commands

RESULTS = Path(__file__).parents[2] / "results"
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of published records, which a test changes."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(RESULTS / "tiny-default", tmp_path / "folder"))


def rewrite(folder, measure, change):
    """Change the fields of a record of a 2:4 model, and write its digest and key again."""
    for path in sorted((folder / "records").iterdir()):
        fields = json.loads(path.read_text())
        identity = fields["identity"]
        if (identity["measure"], identity["pattern"]) == (measure, "2:4"):
            break
    del fields["digest"]
    change(fields)
    fields["key"] = digests.of(fields["key_inputs"])
    path.unlink()
    path = path.with_name(f"{fields['key'][:32]}.json")
    path.write_text(json.dumps(fields | {"digest": digests.of(fields)}))
    return path


def without_items(fields):
    fields["items"] = None
    for reading in fields["readings"]:
        if reading["metric"] == "bytes_packed":
            reading["value"] = 99.0


def without_readings(fields):
    fields |= {"readings": [], "items": None}


def with_large_seed(fields):
    fields["identity"]["seed"] = fields["key_inputs"]["seed"] = 2**70


def with_large_n(fields):
    fields["readings"][0]["n"] = 2**70


def with_one_input(fields):
    fields["key_inputs"] = {"measure": fields["key_inputs"]["measure"]}


def without_bits(fields):
    """Packed bytes follow from the bits, so a forger leaves the bits out."""
    kept = [r for r in fields["readings"] if r["metric"] != "bits_per_weight"]
    fields["readings"] = [r | {"value": 99.0} if r["metric"] == "bytes_packed" else r for r in kept]


def with_another_number(fields):
    fields["readings"][0]["value"] *= 0.9


FAULTS = [
    ("perplexity", with_another_number),
    ("size", without_items),
    ("size", without_bits),
    ("perplexity", without_items),
    ("perplexity", without_readings),
    ("perplexity", with_large_seed),
    ("perplexity", with_large_n),
    ("perplexity", with_one_input),
    ("pattern", with_one_input),
]


@pytest.mark.parametrize(("measure", "change"), FAULTS)
def test_check_names_it(measure, change, folder, cli):
    path = rewrite(folder, measure, change)
    code, out, _ = cli("check", folder)
    assert code == 1 and path.name in out


@pytest.mark.parametrize(("measure", "change"), models.sample(FAULTS, FAULTS[0]))
def test_no_command_believes_it(measure, change, folder, cli):
    """Every command reads records with the function that `check` calls: see test_one_rule.py."""
    path = rewrite(folder, measure, change)
    lines = (
        ("gate", "--baseline", RESULTS / "tiny-default", "--results", folder),
        ("compare", RESULTS / "tiny-default", folder),
        ("merge", folder, "--results", "merged"),
        ("submit", folder, "--credit", "Ada", "--published", folder.parent),
        ("report", "--results", folder),
        ("report", "--results", folder, "--out", "page"),
        ("pick", "--model", "tiny", "--results", folder),
        ("baseline", "set", "--results", folder, "--dir", "baselines"),
        ("export", "--format", "eee", "--results", folder, "--out", "exported"),
        ("history", "--results", folder),
        ("show", path.stem, "--results", folder),
    )
    for line in with_commands(lines):
        code, out, err = cli(*line)
        assert path.name in out + err, line
        # A printed table leaves it out and says so; everything else fails.
        assert code == (0 if line[0] == "report" and "--out" not in line else 2), line


@pytest.mark.parametrize("command", ["gate", "compare"])
def test_fewer_windows_under_the_same_key_are_not_compared(command, tmp_path, cli):
    record = fake_records.perplexity(tmp_path / "a")
    whole = fake_records.read_items(tmp_path / "a/items" / record.items.file)
    half = whole[: len(whole) // 2]
    values = [item.value for item in half]
    value = math.exp(math.fsum(values) / 127 / len(values))
    row = ReadingRow(metric="perplexity", value=value, unit="1", better="lower", n=len(half))
    fake_records.put(tmp_path / "b", record.model_copy(deep=True), half, [row])

    line = ("compare", tmp_path / "a", tmp_path / "b")
    if command == "gate":
        line = ("gate", "--baseline", tmp_path / "a", "--results", tmp_path / "b")
    code, out, _ = cli(*line)
    assert "measured on different items: 120, now 60" in " ".join(out.split())
    assert code == (2 if command == "gate" else 0)  # nothing could be compared


def test_a_merge_replaces_what_its_own_items_deny(tmp_path, output):
    """The record of the target has the same key, another number, and items that deny it."""
    sound = fake_records.perplexity(tmp_path / "a")
    denied = fake_records.perplexity(tmp_path / "b")
    fake_records.edit_value(ReadOnlyStore(tmp_path / "b").path(denied.key), 9.9, seal=True)
    said = output("merge", tmp_path / "a", "--results", tmp_path / "b")
    assert said.startswith("1 record copied")
    assert Store(tmp_path / "b").get(sound.key).readings == sound.readings


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("tiny", "Tiny"),
        ("tiny", "tiny "),
        ("tiny", "t\u0456ny"),  # Cyrillic
        ("tiny", "ti\u200bny"),
        ("model-l", "model-1"),
        ("caf\u00e9", "cafe\u0301"),
    ],
)
def test_models_that_look_alike(name, other, tmp_path, cli):
    for model in (name, other):
        fake_records.perplexity(tmp_path, identity={"model": model})
    code, out, _ = cli("check", tmp_path)
    assert code == 1 and out.count("looks like") == 1


def test_a_metric_that_looks_like_one_of_this_package(tmp_path, cli):
    row = ReadingRow(metric="\u0430cc", value=1.0, unit="1", better="higher")
    record = fake_records.record(measure="mine", protocol="p")
    fake_records.put(tmp_path, record, readings=[row])
    code, out, _ = cli("check", tmp_path)
    assert code == 1 and "looks like 'acc' of this package" in out
