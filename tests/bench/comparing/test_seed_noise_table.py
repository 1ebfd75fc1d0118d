"""The noise between seeds that an estimate from one seed is given: measured on rows of its kind,
and where it comes from."""

import math

import pytest

from bench.comparing.pairing import MetricPair
from bench.comparing.result_arguments import read
from bench.comparing.seed_noise_table import SeedNoiseTable
from bench.results import metrics
from bench.stats.seed_noise import SeedNoise
from helpers import fake_records

pytestmark = pytest.mark.usefixtures("cache")
PERPLEXITY = metrics.find("perplexity")
TRAINED = {"identity": {"training": "wiki-mini@128x8, 1000 tokens"}}


def records(root, *rows):
    """Records of perplexity. rows: method, seeds by their loss, and other parts."""
    for method, losses, about in rows:
        for seed, loss in losses.items():
            fake_records.perplexity(root, loss, method=method, seed=seed, **about)
    return read(root).records


def test_rows_of_a_kind_are_pooled_by_their_degrees_of_freedom(tmp_path):
    rows = (
        ("wanda", {0: 0.0, 1: 0.02}, {}),
        ("ria", {0: 0.0, 1: 0.03, 2: 0.06}, {}),
        ("cast", {0: 0.0, 1: 0.2}, TRAINED),
    )

    noise, source = SeedNoiseTable(records(tmp_path, *rows)).of("tiny", "one-shot", PERPLEXITY)

    assert noise.freedom == 3
    # s^2 of two values is half their squared gap.
    assert noise.variance == pytest.approx((1 * 0.02**2 / 2 + 2 * 0.03**2) / 3)
    assert source == "one-shot 2.6% (from 2 one-shot rows with seeds)"


@pytest.mark.parametrize(("rows", "deviation"), [(8, 0.02), (7, 0.03)])
def test_rows_under_one_protocol_are_taken_alone_if_they_are_many(tmp_path, rows, deviation):
    """The mean over both protocols is the noise of neither."""
    deviation = deviation if rows == 8 else math.sqrt((0.02**2 + 0.04**2) / 2)
    for i in range(rows):
        for protocol, gap in (("wikitext2@512x120", 0.02), ("wiki-mini@128", 0.04)):
            for seed in (0, 1):
                about = {"method": f"m{i}", "seed": seed, "protocol": protocol}
                fake_records.perplexity(tmp_path, gap * seed * 2**0.5, **about)
    found = read(tmp_path).records
    protocols = {r.identity.protocol.label: r.identity.protocol for r in found}

    table, protocol = SeedNoiseTable(found), protocols["wikitext2@512x120"]
    noise, _ = table.of("tiny", "one-shot", PERPLEXITY, protocol)
    assert noise.deviation == pytest.approx(deviation)


def test_a_kind_without_seeds_takes_rows_of_other_kinds(tmp_path):
    rows = ("wanda", {0: 0.0, 1: 0.02, 2: 0.04}, {}), ("cast", {0: 0.0}, TRAINED)
    noise, source = SeedNoiseTable(records(tmp_path, *rows)).of("tiny", "trained", PERPLEXITY)
    assert noise.deviation == pytest.approx(0.02)
    assert source == "trained 2% (from 1 other row with seeds)"


def test_rounded_dense_rows_are_of_a_kind_by_their_bits_and_without_seeds_take_those_of_any_bits(
    tmp_path,
):
    def rounded(quantizer):
        return {"identity": {"pattern": "dense", "quantizer": quantizer}}

    rows = (
        ("dense", {0: 0.0, 1: 0.2, 2: 0.4}, rounded("int3-gptq")),
        ("dense", {0: 0.0, 1: 0.02, 2: 0.04}, rounded("int4-gptq")),
        ("awq", {0: 0.0, 1: 0.04, 2: 0.08}, rounded("nvfp4")),
        ("awq", {0: 0.0}, rounded("int8")),
        ("awq", {0: 0.0, 1: 0.0, 2: 0.0}, rounded("none")),
        ("wanda", {0: 0.0, 1: 0.9, 2: 1.8}, {}),
    )
    for method, quantizer, bits in (
        ("dense", "int3-gptq", 3.125),
        ("dense", "int4-gptq", 4.125),
        ("awq", "nvfp4", 4.5),
    ):
        fake_records.bits(tmp_path, bits, method=method, seed=0, **rounded(quantizer))
    found = records(tmp_path, *rows)
    table = SeedNoiseTable(found)
    by_name = {(r.identity.quantizer, r.identity.measure): table.kind_of(r) for r in found}

    assert by_name["int3-gptq", "perplexity"] == "dense 3-bit"
    assert by_name["int8", "perplexity"] == "dense"
    three, four, transformed, dense = (
        table.of("tiny", kind, PERPLEXITY)
        for kind in ("dense 3-bit", "dense 4-bit", "transformed", "dense")
    )
    assert three.noise.deviation == pytest.approx(0.2)
    assert four.noise.variance == pytest.approx((0.02**2 + 0.04**2) / 2)
    assert transformed.noise.deviation == 0
    assert dense.noise.variance == pytest.approx((0.2**2 + 0.02**2 + 0.04**2) / 3)
    assert dense.source == "dense 12% (from 3 dense rows with seeds)"


def test_rows_that_are_destroyed_are_a_kind_of_their_own(tmp_path):
    rows = (
        ("dense", {None: 0.0}, {}),
        ("wanda", {0: 1.0, 1: 1.02, 2: 1.04}, {}),
        ("magnitude", {0: 8.0, 1: 9.0, 2: 10.0}, {}),
        ("cast", {0: 1.0}, TRAINED),
    )
    fake_records.bits(tmp_path, 9.0, method="magnitude", seed=2)
    found = records(tmp_path, *rows)
    table = SeedNoiseTable(found)

    assert {table.kind_of(r) for r in found if r.identity.method == "magnitude"} == {"destroyed"}
    for kind, deviation in (("one-shot", 0.02), ("trained", 0.02), ("destroyed", 1.0)):
        assert table.of("tiny", kind, PERPLEXITY).noise.deviation == pytest.approx(deviation)


def test_without_seeds_it_is_that_of_published_rows_and_settings_replace_it(tmp_path):
    found = records(tmp_path, ("wanda", {0: 0.0}, {}))
    table, given = SeedNoiseTable(found), SeedNoiseTable(found, {"perplexity": 0.01})
    noise, source = table.of("tiny", "one-shot", PERPLEXITY)
    bits, _ = table.of("tiny", "one-shot", metrics.find("bits_per_byte"))
    other, _ = table.of("tiny", "dense 6-bit", PERPLEXITY)
    assert 0.01 < noise.deviation < 0.1 and noise.freedom > 2
    assert "published rows of" in source and other == noise
    assert bits.deviation == pytest.approx(noise.deviation / (4 * math.log(2)))
    assert given.of("tiny", "one-shot", PERPLEXITY).noise == SeedNoise(0.01**2)


def test_one_shot_rows_differ_by_method_and_pattern(tmp_path):
    """The noise of a method is between its own and that of all, and a method without seeds has the
    wide t of a prior."""
    gaps = {f"m{k}": 0.002 * 2**k for k in range(6)}
    rows = [(name, {0: 0.0, 1: gap, 2: 2 * gap}, {}) for name, gap in gaps.items()]
    table = SeedNoiseTable(records(tmp_path, *rows))
    found = {}
    for group in ("m0 2:4", "m5 2:4", "other 2:4"):
        found[group], source = table.of("tiny", "one-shot", PERPLEXITY, group=group)
    quiet, loud, other = found.values()
    assert 0.002 < quiet.deviation < other.deviation < loud.deviation < 0.064
    assert 0 < other.freedom < 12 and quiet.freedom == pytest.approx(other.freedom + 2)
    assert "by method and pattern (from 6 one-shot rows with seeds)" in source


def test_both_sides_of_a_pair_have_noise_if_both_have_a_seed(tmp_path):
    rows = ("wanda", {0: 0.0}, {}), ("ria", {0: 0.1}, {}), ("dense", {None: 0.0}, {})
    known = {r.identity.method: (r,) for r in records(tmp_path, *rows)}
    a, b, dense = (known[method] for method in ("wanda", "ria", "dense"))
    table = SeedNoiseTable([*a, *b, *dense], {"perplexity": 0.01})

    def deviation(before, after):
        found = table.of_pair(MetricPair("", "perplexity", before, after))
        return found and found.noise.deviation

    assert deviation(dense, a) == pytest.approx(0.01)
    assert deviation(a, b) == pytest.approx(0.01 * 2**0.5)
    # Of means over three seeds.
    assert deviation(a * 3, b * 3) == pytest.approx(0.01 * (2 / 3) ** 0.5)
    assert deviation(dense, dense) is None
