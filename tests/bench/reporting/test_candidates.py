"""Picking a row by limits: which rows meet them, which one fails by the least, and how sure that
is."""

import shlex
from dataclasses import replace
from functools import cache

import pytest
import typer

from bench.catalog.entries import EXPORTS
from bench.cli import flags
from bench.cli.main import app
from bench.comparing.result_arguments import read
from bench.reporting import board, candidates, limits, pairwise
from bench.results import reproduce
from helpers import fake_records, reports
from methods.contract.errors import UserError

ROOT = reports.ROOT


def table_of(root):
    (section,) = board.make_sections([read(root)])
    return section.tables[0]


def names(candidates):
    return [c.row.name for c in candidates]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    return reports.compressed(tmp_path_factory.mktemp("compressed"))


@pytest.fixture(scope="module")
def table(filled, known_noise):
    return table_of(filled)


def answer(table, *, pattern="", quantizer="", **texts):
    return candidates.pick(table, limits.parse_limits(**texts), pattern, quantizer)


def test_without_limits_all_compressed_rows_are_there_the_best_first(table):
    found = answer(table)
    assert names(found.meets)[:3] == ["dense int8", "good 2:4", "small 2:4 int4"]
    assert not any(c.facts.broken or c.row.name == "dense" for c in found.meets)
    assert [row.name for row in found.broken] == ["broken 2:4 (pattern broken)"]
    assert found.nearest is None and found.candidates == len(found.meets) == 5


def test_of_rows_that_tie_the_one_of_the_fewest_bits_is_first(table):
    found = answer(table, pattern="2:4")
    assert [(c.row.name, c.tied) for c in found.meets] == [
        ("small 2:4 int4", True), ("good 2:4", True), ("poor 2:4", False), ("unsized 2:4", False),
    ]  # fmt: skip
    assert found.meets[0].quality > found.meets[1].quality


@pytest.mark.parametrize("fewer", [0, 2])
def test_rows_tie_with_the_best_by_the_number_of_other_rows(table, fewer):
    """And not of all pairs, by which a row far behind ties in a long table."""
    column = candidates.quality_column(table)
    rows = {k for a, b, c in table.intervals if c == column for k in (a, b)}
    p = pairwise.ALPHA / (len(rows) - fewer)
    alike = replace(table, intervals={key: replace(i, p=p) for key, i in table.intervals.items()})
    assert any(c.tied for c in answer(alike).meets) == (fewer > 1)
    assert len(rows) > 3 and p > pairwise.ALPHA / len(table.intervals)


def test_rows_that_were_not_compared_do_not_tie(filled, monkeypatch):
    monkeypatch.setattr(pairwise, "MAX_PAIRED_ROWS", 2)
    (section,) = board.make_sections([read(filled)])
    found = answer(section.tables[0], pattern="2:4")
    assert not any(c.tied for c in found.meets) and found.uncompared == len(found.meets) - 1 == 3
    assert found.meets[0].row.name == "good 2:4" and found.meets[0].facts.loss.low is not None


def facts_of(table, name):
    return next(c.facts for c in answer(table).meets if c.row.name == name)


def test_each_limit_leaves_out_what_is_over_it(table):
    for limit, meets in {
        ("max_bits", "5"): ["small 2:4 int4"],
        ("max_loss", "5%"): ["dense int8"],
        ("max_worst_drop", "2pp"): ["small 2:4 int4", "good 2:4"],
        ("min_speedup", "1.3"): ["good 2:4"],
        ("budget_tokens", "10k"): ["dense int8", "good 2:4"],
    }.items():
        assert names(answer(table, **dict([limit])).meets) == meets
    exact = f"{facts_of(table, 'good 2:4').bits}"
    assert "good 2:4" in names(answer(table, max_bits=exact).meets)


def test_the_nearest_that_fails_and_by_which_limit(table):
    found = answer(table, max_bits="5", max_loss="5%")
    assert not found.meets
    assert found.nearest.row.name == "small 2:4 int4"
    (check,) = found.nearest.failed
    assert check.limit.name == "max_loss" and check.bound.value == pytest.approx(0.1052, abs=1e-3)
    found = answer(table, max_bits="3")
    assert not found.meets and found.nearest.row.name == "small 2:4 int4"
    assert names(found.unmeasured) == ["unsized 2:4"], "it neither meets nor fails"


def test_an_interval_that_contains_its_limit_is_not_sure(table):
    loss = facts_of(table, "poor 2:4").loss
    for limit, expected in ((loss.high + 0.1, False), ((loss.value + loss.high) / 2, True)):
        meets = answer(table, max_loss=f"{limit:.4%}").meets
        (one,) = (c for c in meets if c.row.name == "poor 2:4")
        assert [c.unsure for c in one.checks] == [expected]
    low = {"max_loss": f"{(loss.value + loss.low) / 2:.4%}", "max_bits": "9.5"}
    assert answer(table, pattern="2:4", quantizer="none", **low).nearest.failed[0].unsure


def test_filters_and_unknown_ones(table):
    assert names(answer(table, quantizer="int").meets) == ["dense int8", "small 2:4 int4"]
    with pytest.raises(UserError, match=r"unknown pattern of tiny '2:8': .*2:4"):
        answer(table, pattern="2:8")
    with pytest.raises(UserError, match="unknown quantizer"):
        answer(table, quantizer="fp")


def test_every_limit_has_a_form_and_its_slider_goes_from_strict_to_lax():
    known = {limit.name for limit in limits.LIMITS}
    assert known == set(limits.FORMS) == set(limits.Limits.__annotations__)
    for limit in limits.LIMITS:
        name = limit.name
        stops = [getattr(limits.parse_limits(**{name: s}), name) for s in limit.stops]
        assert stops == sorted(stops, reverse=name == "min_speedup")


def test_a_limit_is_said_as_it_was_given():
    for name, given, said in (
        ("max_loss", "0.04%", "0.04%"),
        ("max_bits", "17.00049", "17.00049 bits per weight"),
        ("max_worst_drop", "3.04pp", "3.04 pp"),
        ("min_speedup", "1.2", "1.2×"),
        ("budget_tokens", "1234567", "1,234,567 tokens"),
    ):
        assert said in limits.describe_limits(limits.parse_limits(**{name: given}))


# --- the commands ---------------------------------------------------------------------------------


@cache
def commands():
    return typer.main.get_command(app).commands


def parse(command):
    """Read a command's parameters with the command line's parser."""
    program, name, *words = shlex.split(command)
    assert program == "bench"
    return name, commands()[name].make_context(name, words).params


FULL = [pytest.param(f, marks=pytest.mark.full) for f in ("tiny-default", "tiny-methods", "ladder")]


@pytest.mark.parts("exports")
@pytest.mark.parametrize("folder", ["smollm2-205k", *FULL])
def test_the_commands_of_every_published_row_are_commands(folder):
    for record in read(ROOT / "results" / folder).records:
        make, export = reproduce.prune_and_export(record)
        name, params = parse(make)
        assert name == "prune" and params["methods"] == record.identity.stages[-1]
        given = {k: v for k, v in params.items() if k not in ("out", "seeds") and v is not None}
        spec = flags.spec_of(given | {"seeds": params["seeds"]})
        assert spec.dtype == record.identity.dtype and spec.models == (record.identity.model,)
        assert ("--pattern" in make) == (record.identity.pattern != "dense")
        if record.identity.quantizer != "none":
            assert spec.quantizers == (record.identity.quantizer,)
        name, exported = parse(export)
        assert name == "export"
        assert exported["artifact"] == str(params["out"])
        assert exported["out"] != params["out"]
        is_packed = record.identity.pattern == "2:4" and "packed24" in EXPORTS
        assert exported["format_"] == ("packed24" if is_packed else "hf")


def test_records_that_do_not_say_how_have_no_commands():
    record = fake_records.record().model_copy(update={"key_inputs": {}})
    no_method = {"identity": record.identity.model_copy(update={"stages": ()})}
    for one in (record, record.model_copy(update=no_method)):
        assert reproduce.prune_and_export(one) == ("", "") and reproduce.command([one]) == ""
