"""Every method, quantizer and measure from build to record on a card that is marked, not there."""

import pytest
import torch

from bench.catalog.entries import METHODS, QUANTIZERS
from bench.results.store import ReadOnlyStore
from helpers import marked, runs
from helpers.models import random_folder
from methods.contract.info import Does
from methods.workshop.training import compiled

pytestmark = pytest.mark.full

METHODS_HERE = [
    name
    for name, entry in METHODS.items()
    if "isolated" not in entry.needs and not entry.extra and Does.IMPORTS not in entry.does
]
QUANTIZERS_HERE = [
    name for name, entry in QUANTIZERS.items() if not entry.extra and name != "allocated"
]
"""All but the one that reads which of these it uses from a file."""
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
def check(cache, monkeypatch, tmp_path):
    """check(**asked): a run on the card has the readings of the same run on the CPU.

    blocks: those of the model. Each operator of the card takes a hundred microseconds.
    """

    def run(blocks=1, **asked):
        model = random_folder("llama", tmp_path / "m", num_hidden_layers=blocks)
        asked = {"models": (str(model),), "seeds": (0,)} | SETTINGS | asked
        asked = {"methods": ("magnitude",), "measures": ("perplexity",)} | asked
        # Triton would compile for a real card.
        monkeypatch.setattr(compiled, "is_wanted", lambda *_: False)
        runs.run_here(runs.small(tmp_path / "cpu", **asked))
        with marked.card(monkeypatch):
            runs.run_here(runs.small(tmp_path / "card", device="cuda", **asked))
        (there, skipped), (here, skipped_here) = map(read, (tmp_path / "card", tmp_path / "cpu"))
        # Optimizers of a card join tensors, and sum in another order.
        assert there and there == pytest.approx(here, rel=1e-4)
        assert skipped == skipped_here

    return run


def read(results):
    """Return the values by row and metric, and the reasons by skipped row."""
    found, skipped = {}, {}
    for record in ReadOnlyStore(results):
        about = record.identity
        key = about.method, about.quantizer, about.seed, about.protocol.label
        assert record.status != "failed", (key, record.reason, record.traceback)
        found |= {(*key, r.metric): r.value for r in record.readings}
        if record.status == "skipped":
            skipped[key] = record.reason
    return found, skipped


@pytest.mark.parametrize("method", METHODS_HERE)
def test_every_method_on_a_card(check, method):
    check(blocks=2 if method == "depth" else 1, methods=(WORDS.get(method, method),))


@pytest.mark.parametrize("quantizer", QUANTIZERS_HERE)
def test_every_quantizer_on_a_card(check, quantizer):
    check(quantizers=(quantizer,))


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_on_a_card(check, measure):
    check(measures=(measure,))


def test_tensors_of_two_devices_do_not_meet(monkeypatch):
    with marked.card(monkeypatch):
        there = torch.ones(3, device="cuda")
        assert there.device.type == "cuda" and (there * 2).is_cuda and there.cpu().is_cpu
        assert torch.where(there > 0, there, 0).tolist() == [1, 1, 1]
        with pytest.raises(marked.MixedDevices, match=r"aten\.add"):
            there + torch.ones(3)
        with torch.inference_mode(), pytest.raises(marked.MixedDevices):
            torch.nn.functional.linear(torch.ones(2, 3), there.expand(2, 3))
        with pytest.raises(TypeError, match="convert"):
            there.numpy()
