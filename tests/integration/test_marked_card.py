"""Every method, quantizer and measure from build to record on a card that is marked, not there."""

import pytest
import torch

from bench.catalog.entries import METHODS, QUANTIZERS
from helpers import marked, runs
from helpers.models import random_folder
from methods.contract.info import Does

pytestmark = pytest.mark.full

METHODS_HERE = [
    name
    for name, entry in METHODS.items()
    if "isolated" not in entry.needs and not entry.extra and Does.IMPORTS not in entry.does
]
QUANTIZERS_HERE = [name for name, entry in QUANTIZERS.items() if not entry.extra]
MEASURES = ("perplexity", "size", "agreement", "zeroshot", "continuation")
TEXT = {"data": "wiki-mini", "seqlen": 32}
SETTINGS = {"perplexity": {"windows": 2} | TEXT, "calibration": {"sequences": 2} | TEXT}
SETTINGS["training"] = {"tokens": 128, "batch": 2} | TEXT
WORDS = {
    "dsnot": "dsnot:from=wanda", "finetune": "finetune:from=magnitude",
    "recon": "recon:epochs=1", "alps": "alps:iterations=9",
}  # fmt: skip
"""Methods with the settings that they need, or that take less time."""


@pytest.fixture
def model(tmp_path):
    return str(random_folder("llama", tmp_path / "m"))


@pytest.fixture
def on_both(cache, monkeypatch, tmp_path, model):
    """on_both(**asked) -> the readings of a run on the card, and of the same run on the CPU."""

    def run(**asked):
        asked = {"models": (model,), "seeds": (0,)} | SETTINGS | asked
        asked = {"methods": ("magnitude",), "measures": ("perplexity",)} | asked
        runs.run_here(runs.small(tmp_path / "cpu", **asked))
        with marked.card(monkeypatch):
            runs.run_here(runs.small(tmp_path / "card", device="cuda", **asked))
        return [readings(tmp_path / place) for place in ("card", "cpu")]

    return run


def readings(results):
    found = {}
    for key, record in runs.records(results).items():
        assert record.status == "ok", (key, record.reason, record.traceback)
        found[key] = {r.metric: r.value for r in record.readings}
    return found


@pytest.mark.parametrize("method", METHODS_HERE)
def test_every_method_on_a_card(on_both, method):
    card, cpu = on_both(methods=(WORDS.get(method, method),))
    assert card == cpu


@pytest.mark.parametrize("quantizer", QUANTIZERS_HERE)
def test_every_quantizer_on_a_card(on_both, quantizer):
    card, cpu = on_both(quantizers=(quantizer,))
    assert card == cpu


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_on_a_card(on_both, measure):
    card, cpu = on_both(measures=(measure,))
    assert card == cpu
