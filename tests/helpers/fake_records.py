"""Results folders for tests of comparisons and reports: made of numbers, without a model."""

import json
import math
import re

import numpy as np
import pandas as pd

from bench.catalog import metric_owners
from bench.results.consistency import BESIDE_ARTIFACT, PROTOCOL_OF, _typed_settings
from bench.results.identity import Identity
from bench.results.record import Item, ReadingRow, Record
from bench.results.store import Store
from bench.system import digests

ARTICLES = 30
WINDOWS = 4


def record(method="wanda", seed=None, measure="perplexity", protocol="wiki-mini@128", **fields):
    """Return a record. identity: parts as text. made: more inputs of its key."""
    pattern = "dense" if method == "dense" else "2:4"
    slot = {"model": "tiny", "method": method, "pattern": pattern, "quantizer": "none"}
    slot |= {"seed": seed, "measure": measure, "protocol": protocol, "targets": [["*"], []]}
    slot |= {"dtype": "float32", "device": "cpu"}
    slot |= fields.pop("identity", {})
    identity = identity_of(**slot)
    inputs = inputs_of(identity) | {"made": repr(fields.pop("made", None))}
    others = fields.pop("key_inputs", {})
    inputs |= others | {"measure": inputs["measure"] | others.get("measure", {})}
    machine = {"cpu": fields.pop("cpu", "EPYC"), "device": None}
    provenance = {"commit": {"id": "c" * 40, "dirty": False}, "machine": machine}
    provenance["recorded"] = "2026-01-01T00:00:00Z"
    fields = {"status": "ok", "token_digest": "t"} | fields
    provenance |= fields.pop("provenance", {})
    fields |= {"identity": identity, "provenance": provenance}
    return keyed(Record(key="", key_inputs=inputs, **fields))


def keyed(record):
    """Return a record with the key and the artifact that its key inputs give."""
    inputs = record.key_inputs
    made_from = {k: v for k, v in inputs.items() if k not in BESIDE_ARTIFACT}
    record.key, record.artifact = digests.of(inputs), digests.of(made_from)
    return record


def of_identity(record, **fields):
    """Return a record of another identity, with the key inputs that go with it."""
    identity = record.identity.model_copy(update=fields)
    inputs = record.key_inputs | inputs_of(identity)
    return keyed(record.model_copy(update={"identity": identity, "key_inputs": inputs}))


def inputs_of(identity):
    """The key inputs of such a measurement."""
    labels = [*identity.stages, *([identity.quantizer] if identity.quantizer != "none" else [])]
    stages = [
        {"name": label.partition(":")[0], "config": _typed_settings(label)} for label in labels
    ]
    stages[-1]["pattern"] = identity.pattern
    protocol = identity.protocol
    config = {"bos": protocol.bos, "limit": protocol.limit}
    if protocol.draw:
        config["draw"] = protocol.draw
    if protocol.seqlen is not None:
        config |= {"corpus": protocol.name, "seqlen": protocol.seqlen, "windows": protocol.limit}
    elif protocol.version is not None:
        config |= {"task": protocol.name, "version": protocol.version, "prompt": protocol.prompt}
    inputs = {
        "model": digests.of(identity.model), "tokenizer": "0" * 64, "threads": 1,
        "stages": stages, "targets": [list(identity.include), list(identity.exclude)],
        "measure": {"name": identity.measure, "config": config},
    }  # fmt: skip
    for name in ("seed", "dtype", "arithmetic", "device"):
        inputs[name] = getattr(identity, name)
    for name in ("calibration", "training"):
        text = getattr(identity, name)
        inputs[name] = text and text.model_dump(exclude_none=True)
    return inputs


def identity_of(**labels):
    """An identity from its parts as text, as rows have them."""
    include, exclude = labels.pop("targets", None) or (["*"], [])
    is_task = labels.get("measure") in ("zeroshot", "answers")
    texts = {
        "protocol": ("name", "version" if is_task else "seqlen", "limit"),
        "calibration": ("data", "seqlen", "sequences"),
        "training": ("data", "seqlen", "batch", "tokens"),
    }
    parts = {name: _parts(text, texts[name]) for name in texts if (text := labels.pop(name, None))}
    stages = labels.pop("method").split(" + ")
    known = {"pattern": "2:4", "protocol": {"name": ""}} | labels | parts
    return Identity(stages=stages, include=include, exclude=exclude, **known)


def _parts(label, names):
    """Return the parts of NAME, NAME@axb or NAME@axb, n tokens, recipe NAME, by name."""
    text, tokens, recipe = (*label.split(", "), "", "")[:3]
    found = re.fullmatch(r"(.+)@([0-9.]+(?:-shot)?)(?:x([0-9]+))?", text)
    parts = dict(zip(names, found.groups() if found else (text,), strict=False))
    parts = {
        k: int(v) if v and k in ("seqlen", "limit", "sequences", "batch") else v
        for k, v in parts.items()
    }
    parts |= {"tokens": int(tokens.removesuffix(" tokens").replace(",", ""))} if tokens else {}
    return parts | ({"recipe": recipe.removeprefix("recipe ")} if recipe else {})


def put(root, record, items=(), readings=()):
    """Write it into a results folder."""
    record.readings = list(readings)
    Store(root).write(record, tuple(items))
    return record


def perplexity(root, loss=0.0, spread=0.01, *, made="a", noise=0, **about):
    """Write windows of 30 articles, each `loss` nats a token more, give or take `spread`."""
    base = np.random.default_rng(0).normal(3.5, 0.3, ARTICLES * WINDOWS)
    own = np.random.default_rng(noise).normal(0, spread, ARTICLES) if noise else np.zeros(ARTICLES)
    own = own - own.mean()  # so that the loss is what it is said to be
    values = 127.0 * (base + loss + np.repeat(own, WINDOWS))
    items = [Item(str(i), str(i // WINDOWS), float(v), 127.0) for i, v in enumerate(values)]
    value = math.exp(values.sum() / 127 / len(values))
    stderr = value * (values / 127).std(ddof=1) / len(values) ** 0.5
    row = ReadingRow(
        metric="perplexity", value=value, unit="1", better="lower", stderr=stderr, n=len(values)
    )
    return put(root, record(made=made, **about), items, [row])


def accuracy(root, lost=0, gained=0, n=1000, *, made="a", **about):
    """Write `n` questions, half of them right before; right ones are lost, wrong ones gained."""
    right = np.arange(n) % 2 == 0
    right[np.flatnonzero(right)[:lost]] = False
    right[np.flatnonzero(~(np.arange(n) % 2 == 0))[:gained]] = True
    items = [Item(f"q{i}", f"q{i}", float(r), 1.0) for i, r in enumerate(right)]
    stderr = right.std(ddof=1) / n**0.5
    row = ReadingRow(
        metric="acc", value=float(right.mean()), unit="1", better="higher", stderr=stderr, n=n
    )
    about = {"measure": "zeroshot", "protocol": "piqa@1.0", "token_digest": ""} | about
    return put(root, record(made=made, **about), items, [row])


def answers(
    root, task="code/mbpp@3-shotx40", factor=1.0, *, lost=0, gained=0, n=40, noise=0.0, made="a",
    **about,
):  # fmt: skip
    """Write `n` questions with two choices: `factor` times the bits, answers lost and gained."""
    rng = np.random.default_rng(len(task))
    bits = rng.uniform(0.5, 1.5, n)
    bits = bits * (factor + noise * np.random.default_rng(1).normal(size=n) if noise else factor)
    right = np.arange(n) % 2 == 0
    was = right.copy()
    right[np.flatnonzero(was)[:lost]] = False
    right[np.flatnonzero(~was)[:gained]] = True
    items = [
        Item(str(i), str(i), float(b), 1.0, {"acc_raw": float(r), "choice": float(not r)})
        for i, (b, r) in enumerate(zip(bits, right, strict=True))
    ]
    stderr = bits.std(ddof=1) / n**0.5
    unit = {"unit": "bits/byte", "better": "lower"}
    rows = [ReadingRow(metric="bits_per_byte", value=bits.mean(), stderr=stderr, n=n, **unit)]
    rows.append(ReadingRow(metric="acc_raw", value=right.mean(), unit="1", better="higher", n=n))
    about = {"notes": {"ranking": "raw"}} | about
    about = {"measure": "answers", "protocol": task, "token_digest": ""} | about
    return put(root, record(made=made, **about), items, rows)


PREFILL = ("prefill", "s", "lower")


def latency(
    root, factor=1.0, blocks=12, *, made="a", noise=1, spread=0.01, metric=PREFILL, **about
):
    times = factor * np.exp(np.random.default_rng(noise).normal(0, spread, blocks))
    items = [Item(str(i), str(i), float(t), 1.0) for i, t in enumerate(times)]
    name, unit, better = metric
    is_ratio = name == "speedup"
    value, stderr = (np.exp(np.log(times).mean()), None) if is_ratio else (np.median(times), 0.01)
    row = ReadingRow(
        metric=name, value=float(value), unit=unit, better=better, stderr=stderr, n=blocks
    )
    about = {"measure": "latency", "protocol": "512", "token_digest": ""} | about
    return put(root, record(made=made, **about), items, [row])


def counted(
    root, metric, value, *, made="a", better="lower", unit="1", items=(), beside=None, **about
):
    """beside: values of further metrics of the same record, by name. A size gets all it needs."""
    rows = [_reading(metric, value, unit, better)]
    owner = metric_owners.find(metric)
    measure = about.get("measure", owner.measure if owner else "mine")
    protocol = PROTOCOL_OF.get(measure, "targets")
    about = {"measure": measure, "protocol": protocol, "token_digest": ""} | about
    made = record(made=made, **about)
    beside = beside or {}
    if about["measure"] == "size" and made.status == "ok":
        beside, items = size_of(made.identity, {metric: value} | beside)
    rows += [
        _reading(name, other, "1", "lower") for name, other in beside.items() if name != metric
    ]
    return put(root, made, items, rows)


def size_of(identity, given):
    """Return readings of a size, with those from which the given ones follow, and its layers.

    Of a low-rank term of 1,000 bytes, so that any bits, packed bytes and parameters go together.
    """
    bits, count = given.get("bits_per_weight"), given.get("parameters", 1e12)
    if bits is None and identity.quantizer != "none":
        bits = 8.0
    targets = 1.0
    if bits is None:
        total = given.get("bytes_packed", count)
        others = {"bits_per_weight": 8 * total / count, "bytes_packed": total}
    else:
        packed = given.get("bytes_packed", float(round(bits * count / 16)))
        total = packed - 1000
        targets = 8000 / (bits - 8 * total / count)
        others = {"adapter_bytes": 1000.0, "bits_per_weight": bits, "bytes_packed": packed}
    sizes = {"sparsity": 0.5, "parameters": count, "bytes": total} | others | given
    readings = {name: float(value) for name, value in sizes.items()}
    return readings, [Item("layer", "layer", readings["sparsity"], targets)]


def bits(root, value, **about):
    """A size in bits per weight, of a model with 8 million parameters, all of them in targets."""
    sizes = {"bytes_packed": value * 1e6, "parameters": 8e6}
    about = {"measure": "size", "protocol": "weights", "beside": sizes} | about
    return counted(root, "bits_per_weight", value, **about)


def _reading(metric, value, unit, better):
    """A reading with the unit and direction that the metric has, if it is known."""
    if owned := metric_owners.find(metric):
        unit, better = owned.metric.unit, owned.metric.better
    return ReadingRow(metric=metric, value=value, unit=unit, better=better)


def read_items(path):
    """What a file of items has."""
    table = pd.read_parquet(path)
    more = list(table.columns[4:])
    return [
        Item(*row[:4], dict(zip(more, row[4:], strict=True)))
        for row in table.itertuples(index=False)
    ]


def edit(path, *, seal=False, **fields):
    """Change a record's file by hand. seal: with a digest of the new content."""
    changed = json.loads(path.read_text()) | fields
    if seal:
        del changed["digest"]
        changed["digest"] = digests.of(changed)
    path.write_text(json.dumps(changed))


def edit_value(path, value, *, seal=False):
    """Give a record's first reading another value."""
    readings = json.loads(path.read_text())["readings"]
    edit(path, seal=seal, readings=[readings[0] | {"value": value}, *readings[1:]])


def failed(root, reason="OOM", *, made="a", **about):
    return put(root, record(made=made, status="failed", reason=reason, **about))
