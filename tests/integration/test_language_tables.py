"""The table of languages, from records that are made up."""

from types import SimpleNamespace

import numpy as np
import pytest

from bench.comparing.known_variance import learn
from helpers import fake_records

SCRIPT = "language_tables"


def fake(language, quantizer, measure, **values):
    """A record of a language without items."""
    identity = {"quantizer": quantizer, "protocol": f"languages-{language}@128"}
    one = fake_records.record("dense", measure=measure, identity=identity)
    one.readings = [
        fake_records.ReadingRow(metric=metric, value=value, unit="1", better="lower", n=90)
        for metric, value in values.items()
    ]
    return one


@pytest.mark.parts("fidelity")
def test_a_line_for_each_language(script, monkeypatch, tmp_path):
    """The dense model of the helper has 3.5 nats a token, and int8 takes 1% and 2% more."""
    extra = []
    for language, share in (("ja", 0.02), ("en", 0.01)):
        for quantizer, loss in (("none", 0.0), ("int8", 3.5 * share)):
            about = {"quantizer": quantizer, "protocol": f"languages-{language}@128"}
            fake_records.perplexity(tmp_path, loss, method="dense", identity=about)
            bits = fake(language, quantizer, "text_bits", text_bits_per_byte=1.5,
                        tokens_per_byte=0.25)  # fmt: skip
            extra += [bits, fake(language, quantizer, "fidelity")]
    results = script.read(str(tmp_path))
    monkeypatch.setattr(script, "mean_kl", lambda records, _: 0.01 * len(records))
    monkeypatch.setattr("page_records.known_variance", lambda: learn(results))

    lines = script._of_model([*results.records, *extra], results).splitlines()

    assert lines[0] == "| | dense | int8 |"
    assert lines[2].startswith("| en | 1.50 (0.25) | 1.0 (") and lines[2].endswith(", 0.010 |")
    assert lines[3].startswith("| ja | 1.50 (0.25) | 2.0 (") and lines[3].endswith(", 0.010 |")
    assert lines[5].endswith("the intervals do not overlap: int8 ja.")


def test_the_mean_kl_is_over_tokens(script):
    items = SimpleNamespace(columns={"kl": np.array([1.0, 3.0])}, weights=np.array([2.0, 6.0]))
    results = SimpleNamespace(items=lambda _: items)
    assert script.mean_kl(["a record"], results) == pytest.approx(0.5)
