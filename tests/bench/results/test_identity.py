"""The name of a measurement says what was measured on, without the class of its measure."""

import pytest

from bench.measures.pattern_check import PatternHolds
from bench.measures.perplexity import Perplexity
from bench.measures.size import Size
from bench.measures.zeroshot import Zeroshot
from bench.results.identity import Identity, Protocol, chain_label

TASK = {"task": "piqa", "file": "", "version": "1.0", "harness": "0", "batch": 1, "tokens": 8}


@pytest.mark.parametrize(
    ("measure", "subject"),
    [
        (Perplexity("wiki-mini", 64), "text"), (Zeroshot(**TASK), "task"), (Size(), "weights"),
        (PatternHolds(), "weights"),
    ],
)  # fmt: skip
def test_a_subject_follows_from_the_protocol(measure, subject):
    protocol = measure.protocol
    if isinstance(protocol, str):
        protocol = Protocol(name=protocol)
    slot = {"model": "m", "stages": ("dense",), "pattern": "dense", "measure": measure.name}
    assert Identity(protocol=protocol, **slot).subject == subject


def test_a_chain_names_each_stage_once():
    chain = ("permute", "sparsegpt:from=permute", "recon:from=permute+sparsegpt:lr=2e-3")
    assert chain_label(chain) == "permute + sparsegpt + recon:lr=2e-3"
    for stages in ((), ("dense",), ("recon:from=dense:lr=2e-3",)):
        assert chain_label(stages) == "".join(stages)
