"""bench check: every record as it was written, its parts in agreement, and every number what its
items give."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bench.results.consistency import contradictions
from bench.results.derive import Items
from bench.results.folder_check import check_folder, disagreements
from bench.results.record import Item, ReadingRow
from bench.results.store import ReadOnlyStore, Store
from helpers import fake_records
from helpers.hostile_results import valid
from helpers.limits import limits
from methods.contract.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "results"
    fake_records.perplexity(root)
    fake_records.accuracy(root)
    fake_records.latency(root)
    fake_records.counted(root, "violated_groups", 0.0)
    return root


def record_of(root, measure="perplexity"):
    return next(r for r in ReadOnlyStore(root) if r.identity.measure == measure)


def rewrite(root, items, **fields):
    """Write the perplexity record again as its owner could: with other items or fields, and digests
    that fit."""
    record = record_of(root)
    items = [Item(*row) for row in zip(*items, strict=True)]
    Store(root).write(record.model_copy(update=fields), tuple(items))


def columns(root):
    items = ReadOnlyStore(root).items(record_of(root))
    return [items.ids, items.clusters, items.columns["value"], items.weights]


def test_a_sound_folder(root, cli):
    code, out, err = cli("check", root)
    assert code == 0 and err == ""
    first, second = out.splitlines()
    assert first == f"{root}: 4 records read, 0 problems, 2 numbers computed again"
    assert second.endswith("does not follow from what is stored: prefill (1), violated_groups (1)")


def test_a_folder_without_records_is_not_sound(root, cli, tmp_path):
    Store(tmp_path / "empty")
    code, out, err = cli("check", tmp_path / "empty", root)
    assert code == 2 and "4 records read" in out
    assert err.startswith(f"bench: results folder '{tmp_path}/empty' has no records")


@pytest.mark.parametrize("measure", ["perplexity", "zeroshot"])
@pytest.mark.parametrize(
    ("field", "name"), [("value", ""), ("stderr", "standard error of "), ("n", "n of ")]
)
def test_a_number_that_its_items_do_not_give(root, cli, measure, field, name):
    """Its digest is right: the owner took the number from elsewhere."""
    record = record_of(root, measure)
    path, reading = ReadOnlyStore(root).path(record.key), record.readings[0].model_dump()
    changed = reading[field] + 1 if field == "n" else reading[field] * (1 + 1e-6)
    fake_records.edit(path, seal=True, readings=[reading | {field: changed}])
    code, out, err = cli("check", root)
    assert code == 1 and "delete them" in err
    assert f"{path} does not hold: " in out
    assert f"{name}{reading['metric']} is" in out
    assert f"give {reading[field]:.9g}" in out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: [c[:10] for c in x], "its items give"),
        (lambda x: [[*c, *c] for c in x], "one is there twice"),
        (lambda x: [x[0], x[1], x[2], x[3] * 0], "no finite mean"),
        (lambda x: [x[0], x[1], x[2] * 1e308, x[3]], "no finite mean"),
        (lambda x: [x[0], x[1], ["much"] * len(x[0]), x[3]], "in column 'value'"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_items_that_are_not_those_of_the_record(root, change, sentence):
    rewrite(root, change(columns(root)))
    (problem,) = check_folder(root).problems
    assert sentence in problem and len(problem.splitlines()) == 1


def with_column(name, values):
    """Return a function that adds a column to a table, or replaces it."""
    column = pa.array(values)

    def changed(table):
        if name in table.column_names:
            return table.set_column(table.column_names.index(name), name, column)
        return table.append_column(name, column)

    return changed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: pa.concat_tables([t] * 10_000), "there are 1,200,000, not 120"),
        (with_column("item_id", pa.nulls(120, pa.string())), "an empty item_id"),
        (lambda t: t.append_column("value", pa.array([0.5] * 120)), "two columns"),
        (with_column("more", [[0.5]] * 120), "list<element: double> in column 'more'"),
        (with_column("value", [1e308] * 120), "other values than numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_items_made_to_be_read_for_ever_are_a_sentence(root, change, sentence):
    """Their owner has written the digest anew."""
    record = record_of(root)
    table = parquet.read_table(ReadOnlyStore(root).items_path(record))
    content = valid(change(table))
    digest = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    record = record.model_copy(update={"items": record.items.model_copy(update=digest)})
    Store(root).write_content(record, content)
    with limits(bytes_=3 * 10**8), pytest.raises(UserError) as refused:
        ReadOnlyStore(root).find(record.stem)
    assert sentence in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_further_metrics_of_an_item_are_computed_too(tmp_path):
    items = [Item(str(i), "a", 2.0 * i, 2.0, {"top1_agreement": 1.0}) for i in range(3)]
    rows = [
        ReadingRow(metric="kl", value=1.0, unit="nats/token", better="lower"),
        ReadingRow(metric="top1_agreement", value=0.75, unit="1", better="higher"),
    ]
    fake_records.put(tmp_path, fake_records.record(measure="agreement"), items, rows)
    (problem,) = check_folder(tmp_path).problems
    assert "top1_agreement is 0.75, but its items give 0.5" in problem


def test_a_diverged_number_is_not_computed(tmp_path):
    row = ReadingRow(metric="perplexity", value=None, unit="1", better="lower")
    record = fake_records.record(status="diverged", reason="perplexity is inf")
    fake_records.put(tmp_path, record, readings=[row])
    assert check_folder(tmp_path).problems == ()


TEXT = {"measure": {"name": "perplexity", "config": {"corpus": "wiki-mini", "seqlen": 128}}}


def of_artifact(measure, protocol, **fields):
    return fake_records.record(measure=measure, protocol=protocol, artifact="a" * 64, **fields)


def violated(layers):
    row = ReadingRow(metric="violated_groups", value=0.0, unit="1", better="lower", n=layers)
    return of_artifact("pattern", "targets", readings=[row])


SIZE = of_artifact("size", "weights")


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ({"key_inputs": {"model": "0"}}, {"key_inputs": {"model": "1"}}, "one name for two models"),
        ({"token_digest": "0"}, {"token_digest": "1"}, "measured on other tokens"),
        (violated(2), SIZE, "a layer has 0.4 zeros"),
        (violated(3), SIZE, "it has 2 layers, but"),
    ],
)
def test_records_that_cannot_both_be_true(first, second, sentence):
    records = [first, second]
    if isinstance(first, dict):
        records = [
            fake_records.record(seed=seed, **{"key_inputs": TEXT} | fields)
            for seed, fields in enumerate(records)
        ]
    ids, sparsity = np.array(["x", "y"]), {"value": np.array([0.5, 0.4])}

    found = list(disagreements(records, {records[1].key: Items(ids, ids, np.ones(2), sparsity)}))

    assert found[0][0] is records[1] and sentence in found[0][1]
    assert not list(disagreements(records[:1], {}))


def test_a_failed_record_on_the_tokens_of_another_is_no_contradiction():
    ok = fake_records.record(seed=0, key_inputs=TEXT, token_digest="a")
    failed = fake_records.record(
        seed=1, key_inputs=TEXT, token_digest="b", status="failed", reason="it ran out of memory"
    )
    assert not list(disagreements([ok, failed], {}))


def test_what_belongs_to_no_record_is_listed_and_is_no_damage(root, output):
    for name in ("items/0000.parquet", "items/.half.tmp", "corrupt/a.json.1"):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert output("check", root).count("belongs to no record") == 3


@pytest.mark.full
def test_published_records():
    for folder in (Path(__file__).parents[3] / "results").glob("*/records"):
        assert check_folder(folder.parent).problems == ()


def test_a_direction_that_no_comparison_knows_is_a_contradiction():
    record = fake_records.record(measure="mine", protocol="p")
    record.readings = [ReadingRow(metric="m", value=1.0, unit="1", better="up")]
    assert any("its m has the direction 'up'" in said for said in contradictions(record))


def wrong_settings(made, stated):
    """What is said of a record of one method whose identity names another setting of it."""
    record = fake_records.record(method=made)
    record.key_inputs["stages"][0]["config"] |= {"eta": 0.9}
    identity = record.identity.model_copy(update={"stages": (stated,)})
    said = contradictions(record.model_copy(update={"identity": identity}))
    return [text for text in said if text.startswith("its identity has settings")]


@pytest.mark.parametrize(
    ("made", "stated", "key_has"),
    [
        ("sparsegpt", "sparsegpt:damping=0.5", 0.01),
        ("sparsegpt", "sparsegpt:group=32", None),
        ("cast", "cast:no-kd", False),
        ("cast", "cast:", None),
        ("experts:by=reap", "experts:by=gate", "reap"),
    ],
)
def test_a_setting_that_the_key_lacks_is_a_contradiction(made, stated, key_has):
    found = wrong_settings(made, stated)

    assert len(found) == 1 and f": {key_has!r}" in found[0].partition("made from")[2]


@pytest.mark.parametrize("stated", ["sparsegpt:damping=0.01", "theirs:rank=3", "recon:from=wanda"])
def test_a_default_a_plug_in_s_setting_and_a_stage_are_no_contradiction(stated):
    assert not wrong_settings(stated.partition(":")[0], stated)


def test_a_key_input_without_content_ties_nothing():
    record = fake_records.record()
    record.key_inputs["tokenizer"] = ""
    said = list(contradictions(fake_records.keyed(record)))
    assert "its key_inputs have no tokenizer" in said
