"""Fidelity against closed forms and its definition, and `bench fidelity` on two folders."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.inputs import llamacpp, loading, windows
from bench.parts.fidelity import pair, report, tally
from bench.parts.fidelity.distances import DistanceReader, clamped
from bench.parts.fidelity.kinds import kind_of
from bench.parts.fidelity.measure import Fidelity
from bench.parts.fidelity.pair import Comparison
from bench.results.derive import derive_own
from helpers import runs
from helpers.measuring import context_of, near_tiny
from methods.contract.method import Compute, NoProgress

pytestmark = pytest.mark.usefixtures("cache", "in_tmp_path")
SEQLEN = 32


def named(p, q):
    """Distances of two distributions, by name."""
    logs = (torch.tensor(side)[None].log() for side in (p, q))
    found = clamped(DistanceReader().read(*logs))[0]
    return dict(zip(tally.DISTANCES, found.tolist(), strict=True))


@pytest.mark.numeric
def test_closed_forms():
    got = named([0.5, 0.25, 0.25], [0.25, 0.25, 0.5])

    ln = math.log
    assert got["kl"] == pytest.approx(0.5 * ln(2) - 0.25 * ln(2), rel=1e-5)
    assert got["reverse_kl"] == pytest.approx(0.25 * ln(2), rel=1e-5)
    half = 0.5 * ln(0.5 / 0.375) + 0.25 * ln(0.25 / 0.375)
    assert got["js_divergence"] == pytest.approx(half, rel=1e-5)
    assert got["ear"] == pytest.approx(0.75)
    assert got["top1"] == 0
    assert got["top5_overlap"] == 1
    assert got["original_token_probability"] == pytest.approx(0.25)
    assert got["confidence"] == pytest.approx(0.5)


@pytest.mark.numeric
def test_distant_models_are_as_far_as_can_be():
    got = named([1 - 1e-30, 1e-30], [1e-30, 1 - 1e-30])

    assert got["kl"] == pytest.approx(30 * math.log(10), rel=1e-5)
    assert got["js_divergence"] == pytest.approx(math.log(2), rel=1e-5)
    assert got["ear"] == pytest.approx(0, abs=1e-6)


def naive(p_logits, q_logits):
    """Distances of one token, from whole logits in float64."""
    p, q = (x.double().softmax(-1) for x in (p_logits, q_logits))
    m = (p + q) / 2
    top, other = (set(x.topk(5).indices.tolist()) for x in (p, q))
    first = int(p.argmax())
    return [
        float((p * (p / q).log()).sum()),
        float((q * (q / p).log()).sum()),
        float((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2,
        float(torch.minimum(p, q).sum()),
        float(first == int(q.argmax())),
        len(top & other) / 5,
        float(q[first]),
        float(p[first]),
    ]


@pytest.mark.numeric
@pytest.mark.parametrize("vocabulary", [1024, 50_257])
def test_is_its_definition(vocabulary):
    """A vocabulary of whole blocks, and one without blocks."""
    torch.manual_seed(0)
    p = 3 * torch.randn(20, vocabulary)
    q = p + 0.5 * torch.randn_like(p)

    want = [naive(*pair) for pair in zip(p, q, strict=True)]
    np.testing.assert_allclose(DistanceReader().read(p, q), want, rtol=1e-4, atol=2e-6)


@pytest.mark.numeric
def test_models_that_are_nearly_equal_have_no_negative_distance():
    p = torch.randn(20, 1024)
    found = clamped(DistanceReader().read(p, p * (1 + 1e-6)))
    found = dict(zip(tally.DISTANCES, found.T, strict=True))

    for name in ("kl", "reverse_kl", "js_divergence"):
        assert float(found[name].min()) >= 0 and float(found[name].max()) < 1e-6
    assert float(found["ear"].min()) > 1 - 1e-5 and float(found["ear"].max()) <= 1
    assert float(found["top5_overlap"].min()) == 1


def distances(kl, **others):
    """Distances [windows, positions, 8] with this KL, and 0.5 elsewhere."""
    out = np.full((*kl.shape, len(tally.DISTANCES)), 0.5)
    out[..., 0] = kl
    for name, values in others.items():
        out[..., tally.DISTANCES.index(name)] = values
    return out


def items_of(kl, clusters=None, **others):
    kinds = np.zeros(kl.shape, dtype=int)
    clusters = clusters or [str(i) for i in range(len(kl))]
    return tally.read_items(tally.items_of(distances(kl, **others), kinds, clusters))


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_those_of_all_tokens(seed):
    """Within one bin, and much closer where a bin has many tokens."""
    kl = np.exp(np.random.default_rng(seed).normal(-5, 2, (50, 200)))
    items = items_of(kl)

    for metric, share in tally.PERCENTILES.items():
        exact = np.quantile(kl, share, method="inverted_cdf")
        error = abs(math.log10(tally.derived(metric, items) / exact))
        assert error <= 1 / tally.PER_DECADE
        if share <= 0.9:
            assert error < 0.01
    assert tally.derived("kl_max", items) == kl.max()


def test_percentiles_of_odd_tokens():
    assert tally.percentile(items_of(np.zeros((2, 9))), 0.99) == 0
    assert tally.percentile(items_of(np.full((2, 9), 0.07)), 0.5) <= 0.07
    assert 100 <= tally.percentile(items_of(np.full((2, 9), 500.0)), 0.5) <= 126


def test_an_interval_of_a_percentile_holds_it_in_most_texts():
    """Articles share an effect, so that windows alone would be too narrow."""
    rng = np.random.default_rng(0)
    clusters = [str(i // 4) for i in range(80)]
    truth, held = math.exp(-3 + 1.2 * 2**0.5 * 1.2815515655), 0
    for _ in range(40):
        effect = np.repeat(rng.normal(0, 1.2, 20), 4)[:, None]
        kl = np.exp(-3 + effect + rng.normal(0, 1.2, (80, 50)))
        found = tally.percentile_interval(items_of(kl, clusters), 0.9)
        held += found.low <= truth <= found.high
    assert held >= 32  # of 40


def naive_buckets(values, kinds):
    """The distances of the tokens of each bucket, token by token."""
    out = {}
    for (window, i), kind in np.ndenumerate(kinds):
        token, position = values[window, i], i + 1
        first, last = 1, 15
        while position > last:
            first, last = last + 1, 2 * last + 1
        last = min(last, kinds.shape[1])
        confidence = tally.CONFIDENCES[int(5 * token[tally.DISTANCES.index("confidence")])]
        for label in (confidence, f"position {first} to {last}", tally.KINDS[kind]):
            out.setdefault(label, []).append(token)
    return {label: np.array(tokens) for label, tokens in out.items()}


def test_every_bucket_is_a_loop_over_its_tokens():
    rng = np.random.default_rng(0)
    values = rng.random((9, 400, len(tally.DISTANCES)))
    kinds = rng.choice(3, size=(9, 400), p=[0.01, 0.1, 0.89])
    items = tally.read_items(tally.items_of(values, kinds, [str(i) for i in range(9)]))
    tails = tally.tails_of(values, kinds)
    want = naive_buckets(values, kinds)

    assert list(tails) == tally.labels_of(items) and tails.keys() == {*want, "other token"}
    assert math.isnan(tally.mean_interval(items, "kl", "other token").value)
    assert set(tails["other token"].values()) == {None}
    for label, tokens in want.items():
        kl, count = sorted(tokens[:, 0]), len(tokens)
        for i, name in enumerate(tally.DISTANCES):
            found = tally.mean_interval(items, name, label)
            assert found.value == pytest.approx(math.fsum(tokens[:, i]) / count)
        for metric, share in tally.PERCENTILES.items():
            value = next(x for n, x in enumerate(kl, 1) if n >= share * count)
            above = sum(x > value for x in kl)
            assert tails[label][metric] == (value if above >= 10 else None)
        assert tails[label]["kl_max"] == kl[-1]


@pytest.mark.parametrize(("tokens", "median"), [(19, None), (20, 9.0)])
def test_ten_tokens_above_a_percentile_are_enough(tokens, median):
    values = np.zeros((1, tokens, len(tally.DISTANCES)))
    values[0, :, 0] = np.arange(tokens)
    tails = tally.tails_of(values, np.full((1, tokens), tally.KINDS.index("digit")))
    assert tails["digit"]["kl_median"] == median


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        ("12", "digit"),
        ("▁7", "digit"),
        ("Ġthe", "word start"),
        ("ing", "other token"),
        ("Ġ4th", "other token"),
        ("Ġ{", "code punctuation"),
        (");", "code punctuation"),
        (".", "other token"),
        ("Ġ", "other token"),
    ],
)
def test_kinds_of_tokens(token, kind):
    assert kind_of(token) == kind


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    """A folder with tiny, its weights a little wrong."""
    folder = runs.tiny(tmp_path_factory.mktemp("near") / "model")
    loading.save_tensors(near_tiny(0.05), folder)
    return folder


def test_the_measure_agrees_with_whole_logits(near):
    context = context_of(near)
    measure = Fidelity("wiki-mini", SEQLEN, windows=4, batch=3)
    got = measure.read(lambda: loading.load(near, Compute()), context)
    tokens, _ = windows.load_windows("wiki-mini", context.tokenizer(), SEQLEN, 4, None)
    with torch.no_grad():
        p, q = (
            model(input_ids=tokens).logits[:, :-1].flatten(0, 1)
            for model in (context.load_dense(), loading.load(near, Compute()))
        )
    want = np.array([naive(*pair) for pair in zip(p, q, strict=True)])

    items = tally.read_items(got.items)
    for i, name in enumerate(tally.DISTANCES):
        sums = items.columns["value" if name == tally.VALUE else name]
        assert sums == pytest.approx(want[:, i].reshape(4, -1).sum(1), rel=2e-3)
    for reading in got.values:
        if reading.stderr is None:
            assert derive_own(reading.metric, None, items).value == reading.value
    texts = context.tokenizer().convert_ids_to_tokens(tokens[:, 1:].flatten().tolist())
    starts = want[[kind_of(text) == "word start" for text in texts]]
    assert items.columns["word start: tokens"].sum() == len(starts) > 0
    for i, name in enumerate(tally.DISTANCES):
        sums = items.columns[f"word start: {name}"]
        assert sums.sum() == pytest.approx(starts[:, i].sum(), rel=2e-3)
    largest = got.notes[tally.TAILS]["word start"]["kl_max"]
    assert largest == pytest.approx(starts[:, 0].max(), rel=2e-3)


def test_the_end_of_the_interval_is_compared_with_the_limit():
    items = items_of(np.random.default_rng(0).random((9, 20)))
    mean = report.interval_of(items, "kl")
    found = Comparison(items, {}, {})

    assert report.exceeds(found, (mean.value + mean.high) / 2)
    assert not report.exceeds(found, mean.high)
    alone = Comparison(items_of(np.full((1, 20), 0.5)), {}, {})
    assert report.exceeds(alone, 0.4)
    assert not report.exceeds(alone, 0.5)


QUICK = ("--windows", 6, "--threads", 1)


def test_the_command_compares_two_folders(near, cli):
    code, out, err = cli(
        "fidelity",
        "tiny",
        near,
        *QUICK,
        "--floor",
        "--json",
        "--figure",
        "f.svg",
        "--max-kl",
        0.001,
    )

    assert code == 1, err
    assert "exceeds --max-kl 0.001" in err
    found = json.loads(out)
    kl = found["distances"]["kl"]
    assert 0.001 < kl["low"] < kl["value"] < kl["high"]
    assert kl["floor"] < kl["value"]
    assert not kl["within_floor"]
    assert {"bfloat16", "2 threads", "one window at a time"} < found["floor"].keys()
    assert found["passed"] is False
    by = {row["tokens"]: row for row in found["by"]}
    assert sum(row["count"] for label, row in by.items() if label.startswith("pos")) == 6 * 127
    late = by["position 64 to 127"]
    assert late["kl_p90"]["value"] > late["kl"]["value"] and late["reverse_kl"]["low"] > 0
    assert late["kl_p999"] == {"value": None, "why": report.FEW}


def test_another_engine_gives_its_own_logits(near, monkeypatch, tmp_path):
    """llama.cpp in name only: another model's logits, window by window."""
    model = loading.load(near, Compute())

    class Llama:
        def reset(self):
            self.scores = None

        def eval(self, tokens):
            assert self.scores is None
            self.scores = model(input_ids=torch.tensor([tokens])).logits[0].numpy()

    monkeypatch.setattr(llamacpp, "load", lambda *_, **__: Llama())
    request = pair.Request(original="tiny", compressed=str(near), windows=3)
    whole = pair.compare(pair.prepare(request), tmp_path, NoProgress()).items
    elsewhere = replace(pair.prepare(request), request=replace(request, engine="llamacpp"))
    found = pair.compare(elsewhere, tmp_path, NoProgress()).items

    for name, column in whole.columns.items():
        if name in (*tally.DISTANCES, "value"):
            assert found.columns[name] == pytest.approx(column, rel=1e-3)


def test_a_copy_is_within_the_floor(tmp_path, cli):
    copy = runs.tiny(tmp_path / "copy")
    code, out, _ = cli("fidelity", "tiny", copy, *QUICK, "--floor", "--buckets", "--max-kl", 0)

    assert code == 0
    assert out.count("within floor") >= 8
    assert "\nfew: fewer than 10 tokens" in out
    assert max(map(len, out.splitlines())) <= 80


def test_models_with_other_tokens_are_refused(tmp_path, refused, monkeypatch):
    other = runs.tiny(tmp_path / "other")
    file = other / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    a, b = list(vocabulary)[500:502]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    file.write_text(json.dumps(content))
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("loaded"))

    sentence = refused("fidelity", "tiny", other, *QUICK)

    assert "has another tokenizer than tiny" in sentence
