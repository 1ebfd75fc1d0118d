"""Distance to the dense model against its definition, and models that do not fit against the same
ones whole."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from bench.inputs import loading, windows
from bench.measures import forward
from bench.measures.agreement import Agreement, WindowDistances
from bench.measures.perplexity import Perplexity
from bench.measures.window_pass import LogitPart, logit_parts
from bench.measures.windowed import Windows
from helpers import runs
from helpers.measuring import context_of, near_tiny
from methods.contract.method import Compute

SEQLEN = 32
NEAR = 64 * torch.finfo(torch.float32).eps


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def context(tmp_path):
    """The context of tiny with its weights a little wrong."""
    folder = runs.tiny(tmp_path / "damaged")
    loading.save_tensors(near_tiny(0.02), folder)
    return context_of(folder)


def read(measure, context):
    return measure.read(lambda: loading.load(context.folder, context.compute), context)


@torch.no_grad()
def naive(dense, other, window):
    """(sum over positions of sum_v p ln(p / q) in nats, agreeing positions), from whole logits in
    float64. [seqlen]

    No two tokens come first together: the two likeliest are further apart than 64 roundings of the
    largest logit.
    """
    logits = [m(input_ids=window[None]).logits[0, :-1].double() for m in (dense, other)]
    p, q = (side.log_softmax(-1) for side in logits)
    for first, second in torch.cat([p, q]).topk(2).values.tolist():
        assert first - second > NEAR * -p.min()
    return float((p.exp() * (p - q)).sum()), int((p.argmax(-1) == q.argmax(-1)).sum())


@pytest.mark.numeric
def test_is_its_definition(context):
    got = read(Agreement("wiki-mini", SEQLEN, windows=5, batch=2), context)
    tokens, clusters = windows.load_windows("wiki-mini", context.tokenizer(), SEQLEN, 5, None)
    want = [naive(context.load_dense(), loading.load(context.folder, Compute()), w) for w in tokens]

    kl, same = got.values
    # a logit of 10 is off by up to 32 roundings, 4e-5, and KL by sum |p - q| of that: 0.08 where KL
    # is 0.0033 a position
    assert [i.value for i in got.items] == pytest.approx([k for k, _ in want], rel=1e-3)
    assert [i.beside["top1_agreement"] for i in got.items] == [n for _, n in want]
    assert [(i.cluster_id, i.weight) for i in got.items] == [(c, SEQLEN - 1) for c in clusters]
    assert kl.value == pytest.approx(sum(k for k, _ in want) / (5 * (SEQLEN - 1)), rel=1e-3)
    assert kl.value > 0.001
    assert same.value == pytest.approx(sum(n for _, n in want) / (5 * (SEQLEN - 1)))
    assert same.value < 1
    assert kl.n == 5
    spread = torch.tensor([n / (SEQLEN - 1) for _, n in want], dtype=torch.float64).std() / 5**0.5
    assert same.stderr == pytest.approx(float(spread), rel=1e-6)


def test_models_that_are_nearly_equal_have_no_negative_distance(context):
    cut = Windows(*windows.load_windows("wiki-mini", context.tokenizer(), SEQLEN, 8, None))
    count = 8 * (SEQLEN - 1)
    dense = torch.randn(count, 512, generator=torch.Generator().manual_seed(0))
    reader = WindowDistances(cut)
    targets = cut.tokens[:, 1:].flatten()
    reader.take(LogitPart(8, count, slice(0, count), targets, dense * (1 + 1e-6), dense))
    assert all(item.value >= 0 for item in reader.finish().items)


def distances(context):
    """Read distances of three windows, two to a batch."""
    cut = Windows(*windows.load_windows("wiki-mini", context.tokenizer(), SEQLEN, 3, None))
    reader = WindowDistances(cut)
    measured, dense = (
        forward.forward_windows(partial(loading.load, f, Compute()), f, cut.tokens, 2, context)
        for f in (context.folder, context.source)
    )
    for part in logit_parts(measured, cut.tokens, Compute().device, dense):
        reader.take(part)


def test_logits_never_exist_whole(context, monkeypatch):
    row_counts = []
    head = torch.nn.Linear.forward

    def watched(self, x):
        if self.out_features == 1024:
            row_counts.append(len(x))
        return head(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    monkeypatch.setattr(forward, "LOGITS_BYTES", 4 * 1024 * 7)
    distances(context)

    assert row_counts and max(row_counts) == 7


def test_the_dense_model_agrees_with_itself_exactly(context):
    """Measured or known, it is the same."""
    itself = replace(context, folder=context.source)
    measure = Agreement("wiki-mini", SEQLEN, windows=3)
    measured = read(measure, itself)
    load = partial(pytest.fail, "nothing has to be loaded to know it")
    known = measure.read(load, replace(itself, is_dense=True, load_dense=load))
    assert measured == known
    assert [v.value for v in known.values] == [0.0, 1.0]


# Streaming


@pytest.mark.parametrize("measure", [pytest.param(Perplexity, marks=pytest.mark.full), Agreement])
def test_a_streamed_model_reads_the_same(measure, context):
    streaming = Compute(stream=True)
    load = partial(loading.load, runs.TINY, streaming)
    streamed = replace(context, compute=streaming, load_dense=load)
    made = measure("wiki-mini", SEQLEN, windows=5, batch=2)
    assert read(made, streamed) == read(made, context)
