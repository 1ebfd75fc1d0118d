"""The table of docs/models.md: every family through everything the suite does, on a random model.

`pytest tests/integration/test_families_table.py -m slow --write-families` runs it and writes
results/families.json.
"""

import copy
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from baselines.magnitude import Magnitude
from bench.formats.writing import export_model
from bench.inputs import loading
from bench.planning.spec import Spec
from bench.results.store import ReadOnlyStore
from bench.system import digests
from helpers import runs
from helpers.models import job_for, random_folder, write
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.families import FAMILIES

FILE = Path(__file__).parents[2] / "results/families.json"
ONE_SHOT = tuple(f"{name}:from=magnitude" if name == "dsnot" else name for name in runs.PRUNERS)
READ = ("perplexity", "agreement", "size")
COLUMNS = {
    "one-shot": {"methods": ONE_SHOT, "measures": READ},
    "CAST": {"methods": ("cast",), "measures": READ},
    "retrain": {"methods": ("retrain:from=magnitude",), "measures": READ},
    "int8": {"methods": ("magnitude",), "quantizers": ("int8",), "measures": READ},
    "int4-gptq": {"methods": ("magnitude",), "quantizers": ("int4-gptq",), "measures": READ},
    "streaming": {"methods": ("wanda",), "measures": READ, "stream": True},
    "packed24": None,
    "onnx": None,
    "finetune": {"methods": ("finetune:from=magnitude",), "measures": READ},
    "zero-shot": {"methods": ("magnitude",), "measures": ("zeroshot",)},
    "speed": {"methods": ("magnitude",), "measures": ("speed",), "dtype": "bfloat16"},
}
"""What a run of each column is; None: an export, which is no run."""
SMALL = {
    "quantizers": ("none",),
    "perplexity": {"data": "wiki-mini", "windows": 2, "seqlen": 32},
    "calibration": {"sequences": 4, "seqlen": 32},
    "training": {"tokens": 512, "batch": 4, "seqlen": 32},
    "zeroshot": {"limit": 4},
    "device": "cpu",
    "threads": 1,
}
WORKS = "works"


def entry_digest(family):
    """Return a digest of a family's entry without the part that only transforms read."""
    entry = asdict(FAMILIES[family])
    del entry["flow"]
    return digests.of(entry)


def run_cell(folder, results, changes):
    """`WORKS`, or why not."""
    try:
        runs.run_here(Spec(models=(str(folder),), results=results, **(SMALL | changes)))
    except UserError as refusal:
        return str(refusal)
    records = [r for r in ReadOnlyStore(results) if r.identity.protocol.name != "cuda"]
    assert records
    failed = [r for r in records if r.status != "ok"]
    many = len(changes["methods"]) > 1
    bad = {f"{r.identity.method}: {r.reason}" if many else r.reason for r in failed}
    return "; ".join(sorted(bad)) or WORKS


def packed_cell(folder, path):
    """Pruned, packed and loaded on its packed weights, it has the logits of the same model
    dense."""
    from bench.parts.packed24 import linear24

    model = loading.load(folder, Compute())
    Magnitude().apply(model, job_for(model))
    write(model, path / "pruned")
    try:
        export_model(str(path / "pruned"), "packed24", path / "packed")
        export_model(str(path / "packed"), "hf", path / "again")
    except UserError as refusal:
        return str(refusal)
    tokens = torch.randint(1024, (2, 16), generator=torch.Generator().manual_seed(0))
    packed = linear24.load(path / "packed", Compute(), engine="reference")
    with torch.no_grad():
        want = packed(tokens).logits
        for other in (model, AutoModelForCausalLM.from_pretrained(path / "again")):
            torch.testing.assert_close(other(tokens).logits, want, rtol=1e-4, atol=1e-4)
    return WORKS


def onnx_cell(folder, path):
    """Export a pruned model. The export checks pattern and logits."""
    model = loading.load(folder, Compute())
    Magnitude().apply(model, job_for(model))
    write(model, path / "pruned")
    try:
        said = export_model(str(path / "pruned"), "onnx", path / "onnx")
    except UserError as refusal:
        return str(refusal)
    assert "2:4 in" in said and "logits in onnxruntime differ by" in said
    return WORKS


EXPORTS = {"packed24": packed_cell, "onnx": onnx_cell}
TOKENIZED = {}
"""By text: every family has one tokenizer, and most of a small run would be spent in it."""


def remember_tokens(monkeypatch):
    real = PreTrainedTokenizerBase.__call__

    def call(self, text=None, *args, **options):
        key = tuple(text) if isinstance(text, list) else text, args, tuple(sorted(options.items()))
        if key not in TOKENIZED:
            TOKENIZED[key] = real(self, text, *args, **options)
        return copy.copy(TOKENIZED[key])

    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", call)


@pytest.fixture
def row(family, tmp_path, monkeypatch):
    """row() -> a family's row of the table."""
    runs.own_cache(tmp_path, monkeypatch)
    remember_tokens(monkeypatch)

    def make():
        # speed has 128 tokens in the cache
        folder = random_folder(family, tmp_path / "model", max_position_embeddings=256)
        cells = {
            name: run_cell(folder, tmp_path / name, changes)
            if changes
            else EXPORTS[name](folder, tmp_path / name)
            for name, changes in COLUMNS.items()
        }
        return {"entry": entry_digest(family), "cells": cells}

    return make


@pytest.mark.slow
def test_a_familys_row_is_what_happens(family, row, request):
    got = row()
    if request.config.getoption("--write-families"):
        table = json.loads(FILE.read_text()) if FILE.exists() else {}
        table[family] = got
        ordered = {name: table[name] for name in FAMILIES if name in table}
        FILE.write_text(json.dumps(ordered, indent=1) + "\n")
    assert got == json.loads(FILE.read_text())[family]


def test_every_family_has_a_row_of_its_entry_and_no_cell_is_blank():
    """A family that was added, or whose entry changed, has to be run again."""
    table = json.loads(FILE.read_text())
    assert set(table) == set(FAMILIES)
    for name, row in table.items():
        assert row["entry"] == entry_digest(name), name
        assert list(row["cells"]) == list(COLUMNS) and all(row["cells"].values()), name
