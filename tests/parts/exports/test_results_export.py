"""Results in the format of others: held against Every Eval Ever's schema."""

import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from bench.parts.exports import formats, result_sets
from bench.results.record import Item, ReadingRow
from helpers import fake_records

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "schemas/every_eval_ever-0.3.0.schema.json").read_text()
)
HOSTILE = "../<img src=x>/a:b\n=cmd|'/C calc'!A0"


pytestmark = pytest.mark.usefixtures("cache")


def inputs(name, config, content=""):
    """The key inputs of a measure."""
    measure = {"name": name, "config": config, "content": content}
    return {"model": "0" * 64, "measure": measure}


def windows(root, **about):
    key_inputs = inputs("perplexity", {"corpus": "wiki-mini", "seqlen": 128}, "d1")
    return fake_records.perplexity(root, key_inputs=key_inputs, **about)


def questions(root, task="piqa", limit=None, stderr=True, **about):
    config = {"task": task, "file": "", "version": "1.0", "harness": "0.4.13", "batch": 16}
    config |= {"limit": limit} if limit else {}
    notes = {"data": "baber/piqa" if task == "piqa" else "wiki-mini", "revision": "abc"}
    about |= {"measure": "zeroshot", "protocol": f"{task}@1.0" + (f"x{limit}" if limit else "")}
    key_inputs = inputs("zeroshot", config)
    record = fake_records.record(key_inputs=key_inputs, notes=notes, token_digest="", **about)
    n = limit or 40
    right = {"acc": np.arange(n) % 4 == 0, "acc_norm": np.arange(n) % 2 == 0}
    rows = []
    for name, values in right.items():
        error = values.std(ddof=1) / math.sqrt(n) if stderr else None
        row = {"value": float(values.mean()), "unit": "1", "better": "higher", "stderr": error}
        rows.append(ReadingRow(metric=name, n=n, **row))
    items = [
        Item(str(i), str(i), float(acc), 1.0, {"acc_norm": float(norm)})
        for i, (acc, norm) in enumerate(zip(*right.values(), strict=True))
    ]
    return fake_records.put(root, record, items, rows)


def size(root, **about):
    return fake_records.counted(
        root, "bytes_packed", 2e6, beside={"parameters": 134515008}, **about
    )


@pytest.fixture
def root(tmp_path):
    """Two models: one whole, one of two seeds, one of which failed; and one that has no number at
    all."""
    root = tmp_path / "results"
    for make in (windows, questions, size):
        make(root, method="dense")
        make(root, method="sparsegpt", seed=0, identity={"quantizer": "int8"})
    fake_records.failed(root, method="sparsegpt", seed=1)
    return root


def exported(output, root, format_, out, *more):
    said = output("export", "--format", format_, "--results", root, "--out", out, *more)
    files = sorted(out.rglob("*.json"))
    return said, {str(p.relative_to(out)): json.loads(p.read_text()) for p in files}


def test_every_eval_ever_takes_it(root, output, tmp_path):
    fake_records.counted(root, "strangeness", 3.0, method="dense")
    said, found = exported(output, root, "eee", tmp_path / "out")

    assert "2 files, 2 models; skipped, without a number: 1 failed" in said
    checker = jsonschema.Draft7Validator(SCHEMA)
    path_rule = SCHEMA["properties"]["detailed_evaluation_results"]["properties"]["file_path"][
        "pattern"
    ]
    for path, document in found.items():
        assert not list(checker.iter_errors(document))
        assert document["schema_version"] == SCHEMA["version"]
        assert jsonschema.Draft7Validator({"pattern": path_rule}).is_valid(
            path.replace(".json", "_samples.jsonl")
        )
        name = document["model_info"]["id"]
        assert path.startswith(f"data/cast-bench/{name}/")
        assert document["evaluation_id"].split("/")[1:-1] == name.split("/")
    got = [d["model_info"]["id"] for d in found.values()]
    assert got == ["cast-bench/tiny", "cast-bench/tiny-sparsegpt-2-4-int8-seed0"]


def test_every_number_is_in_it_with_its_error(root, output, tmp_path):
    _, found = exported(output, root, "eee", tmp_path / "out")

    dense = next(d for d in found.values() if d["model_info"]["id"] == "cast-bench/tiny")
    results = {r["evaluation_result_id"]: r for r in dense["evaluation_results"]}
    assert set(results) == {"perplexity/wiki-mini@128/perplexity", "size/weights/bytes_packed",
                            "size/weights/bytes", "size/weights/sparsity",
                            "size/weights/bits_per_weight",
                            "zeroshot/piqa@1.0/acc", "zeroshot/piqa@1.0/acc_norm"}  # fmt: skip
    acc = results["zeroshot/piqa@1.0/acc"]
    assert acc["score_details"]["score"] == 0.25
    got = acc["score_details"]["uncertainty"]
    assert got == {"standard_error": {"value": pytest.approx(0.0693, abs=1e-4)}, "num_samples": 40}
    assert acc["metric_config"]["lower_is_better"] is False
    assert acc["metric_config"]["metric_id"] == "accuracy"
    assert acc["source_data"] == {"dataset_name": "piqa", "source_type": "hf_dataset",
                                  "hf_repo": "baber/piqa",
                                  "additional_details": {"revision_or_digest": "abc"}}  # fmt: skip
    perplexity = results["perplexity/wiki-mini@128/perplexity"]["metric_config"]
    assert perplexity["lower_is_better"] is True
    assert (perplexity["min_score"], perplexity["max_score"]) == (1.0, "Infinity")
    assert dense["model_info"]["additional_details"]["parameters"] == "134515008"
    assert dense["evaluation_timestamp"] == "1767225600"  # 2026-01-01T00:00:00Z


def test_the_same_records_give_the_same_bytes(root, output, tmp_path):
    for name in ("one", "two"):
        exported(output, root, "eee", tmp_path / name)
    one, two = (sorted((tmp_path / name).rglob("*.json")) for name in ("one", "two"))

    assert one and [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    assert [p.relative_to(tmp_path / "one") for p in one] == [
        p.relative_to(tmp_path / "two") for p in two
    ]


def test_hostile_names_make_no_path(tmp_path, output):
    root = tmp_path / "results"
    windows(root, method=HOSTILE, identity={"model": HOSTILE})

    _, found = exported(output, root, "eee", tmp_path / "deep/out")

    assert len(found) == 1 and not set("".join(found)) & set("<>:|!'\n\\ ")
    assert {p.name for p in tmp_path.iterdir()} <= {"results", "deep", "cache"}
    assert ".." not in next(iter(found))


def test_a_folder_of_the_users_is_named_without_its_path(tmp_path, output):
    root = tmp_path / "results"
    windows(root, method="dense", identity={"model": "/home/somebody/secret/mine"})

    _, found = exported(output, root, "eee", tmp_path / "out")
    assert "secret" not in json.dumps(found) and "cast-bench/mine" in json.dumps(found)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("llama2-7b", "meta-llama/Llama-2-7b-hf"),
        ("owner/name", "owner/name"),
        ("smollm2-135m-instruct-q4", "cast-bench/smollm2-135m-instruct-q4"),
    ],
)
def test_a_dense_model_is_called_what_its_publisher_calls_it(tmp_path, model, name):
    record = windows(tmp_path, method="dense", identity={"model": model})
    assert [line.name for line in result_sets.group_by_model([record])[0]] == [name]


def test_two_models_of_one_file_are_refused(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(formats.EveryEvalEver, "documents", lambda *_: {"x.json": "{}"})
    for dtype in ("float32", "bfloat16"):
        windows(tmp_path / "r", identity={"dtype": dtype})

    line = ("export --format eee --results", tmp_path / "r", "--out", tmp_path / "out")
    assert "would have the file" in refused(*line)
    assert not (tmp_path / "out").exists()
