"""A record of which one leaf was changed: each command that reads records notices, or the leaf
proves nothing.

Two kinds of change. Without a new digest, the digest shows every change. With a new digest, written
by bench's own code, the record's other parts or its items contradict the change, except in the
leaves of UNPROVEN, which only a signature or a new measurement proves.
"""

import copy
import fnmatch
import json
from pathlib import Path

import pytest

from bench.results.record import parse
from bench.results.record_check import check_record
from bench.results.store import ReadOnlyStore
from bench.system import digests
from methods.contract.errors import UserError

RESULTS = Path(__file__).parents[2] / "results"
UNPROVEN = (
    "provenance*", "cost*", "notes*", "token_digest", "identity.model", "items.size",
    "reason", "traceback",  # of a record without a number
    "identity.stages.*",  # settings whose value is the default, which a key leaves out, and texts
    "readings.*",  # of the metrics that bench check names as not computed again
    "identity.*",  # of timings of engines, whose key has other inputs
)  # fmt: skip
PROVEN_METRICS = {
    "perplexity", "acc", "acc_norm", "kl", "top1_agreement", "sparsity", "tokens_per_s", "speedup",
}  # fmt: skip
"""Metrics of which value, standard error and n follow from the items."""


def published():
    return sorted(p for p in RESULTS.glob("*/records/*.json") if p.parents[1].name != "local")


def sample(paths):
    """One of each measure."""
    found = {}
    for path in paths[:: max(1, len(paths) // 400)]:
        found.setdefault(json.loads(path.read_bytes())["identity"]["measure"], path)
    return list(found.values())


def leaves(value, path=()):
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not value:
        yield path
        return
    for name, part in value.items():
        yield from leaves(part, (*path, name))


def shape(path):
    """Return the measure and the names of all fields: records of a shape differ in values alone."""
    fields = json.loads(path.read_bytes())
    names = (tuple(name for name in leaf if isinstance(name, str)) for leaf in leaves(fields))
    names = frozenset(n for n in names if n[0] not in ("notes", "provenance"))
    return fields["identity"]["measure"], fields["status"], names


def other_values(value):
    """Another value of the same type, and one of another type."""
    if isinstance(value, bool):
        return [not value, str(value)]
    if isinstance(value, int | float):
        return [value + 1, str(value), float(value) if isinstance(value, int) else None]
    if isinstance(value, str):
        return [value + "x", [value]]
    if isinstance(value, dict):
        return [{"a": 1}, 7]
    return [[1], 7] if isinstance(value, list) else ["x", 0]


def with_leaf(fields, path, value):
    """Return the same fields in the same order, with one leaf changed."""
    out = copy.copy(fields)
    out[path[0]] = with_leaf(fields[path[0]], path[1:], value) if path[1:] else value
    return out


def leaf_of(fields, path):
    for name in path:
        fields = fields[name]
    return fields


def is_unproven(path, fields):
    name = ".".join(map(str, path))
    metric = fields["readings"][path[1]]["metric"] if path[0] == "readings" and path[1:] else ""
    if metric in PROVEN_METRICS:
        # A speedup states no n. Measures of lm-eval's tasks and timings may have any metric.
        named = path[2] == "metric" and fields["identity"]["measure"] in ("zeroshot", "speed")
        return named or (path[2] == "n" and metric == "speedup")
    if path[0] in ("reason", "traceback"):
        return fields["status"] != "ok"
    if path == ("identity", "quantizer") and ":file=" in fields["identity"]["quantizer"]:
        return True  # a text, as in the stages: the key has the file's content
    if path == ("identity", "training", "recipe"):
        return True  # a name: the key has the settings that it stands for
    if path[0] == "identity" and path[1] not in ("model", "stages"):
        return fields["identity"]["measure"] == "speed"
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in UNPROVEN)


def notices(content, items):
    """Whether the strict reader, the record's own parts or its items refuse it."""
    try:
        record = parse(content, "a record")
        check_record(record, items if record.items else None)
    except (ValueError, UserError):
        return True
    return False


def misses(path):
    """Yield changes that nobody notices although UNPROVEN does not name them."""
    fields = json.loads(path.read_text())
    store = ReadOnlyStore(path.parents[1])
    record = parse(path.read_bytes(), str(path))
    items = store.items(record) if record.items else None
    for leaf in leaves(fields):
        for value in other_values(leaf_of(fields, leaf)):
            changed = with_leaf(fields, leaf, value)
            try:
                parse(json.dumps(changed).encode(), "a record")
            except (ValueError, UserError):
                pass
            else:
                yield "unsealed", leaf, value
            if leaf == ("digest",) or is_unproven(leaf, fields):
                continue
            if leaf[-1] == "stderr" and value is None:
                continue  # it states less
            if leaf[0] == "items" and record.items and leaf[1] in ("sha256", "file"):
                continue  # the store compares them with the file
            try:
                changed["digest"] = digests.of({k: v for k, v in changed.items() if k != "digest"})
            except (TypeError, ValueError):
                continue
            if not notices(json.dumps(changed).encode(), items):
                yield "sealed", leaf, value


@pytest.mark.parametrize("path", sample(published()), ids=lambda path: path.stem[:8])
def test_any_leaf_of_some_records(path):
    assert list(misses(path)) == []


@pytest.mark.full
@pytest.mark.parametrize("folder", sorted({path.parents[1].name for path in published()}))
def test_any_leaf_of_a_record_of_each_shape(folder):
    paths = {shape(path): path for path in published() if path.parents[1].name == folder}
    assert {path.stem: found for path in paths.values() if (found := list(misses(path)))} == {}
