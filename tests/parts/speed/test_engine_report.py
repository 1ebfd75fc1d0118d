"""Ratios, rows and figures of several engines, from records whose blocks are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy import stats

from bench.parts.speed import engine_report
from bench.results.identity import Identity, Protocol
from bench.results.record import Record
from methods.contract.errors import UserError

BLOCKS = 12
PACE = np.linspace(1, 2, BLOCKS)
"""A machine that speeds up: ratios within a block do not see it."""


def record(
    engine, kind, tokens, dense=None, step="decode", model="m", status="ok", pace=PACE, **notes
):
    """Make a record and its blocks. tokens: tokens per second in the first block; dense: those of
    the dense side."""
    protocol = Protocol(name=step, version="b1,kv8" if step == "decode" else None, engine=engine)
    slot = {"model": model, "stages": ("x",), "pattern": "2:4", "dtype": kind, "device": "cpu"}
    identity = Identity(measure="speed", protocol=protocol, **slot)
    about = {"threads": 1, "kv_tokens": 8, "prompt_tokens": 4}
    about |= {"in_turn": ["a", "b"], "noise": {"dense": 0.01}}
    table = {"value": tokens * pace}
    if dense:
        about["noise"] = {"2:4": 0.02, "dense": 0.03}
        table["tokens_per_s_dense"] = dense * PACE
    key = f"{engine}{kind}{step}"
    found = Record(key=key, identity=identity, status=status, notes=about | notes)
    return found, SimpleNamespace(columns={k: np.array(values) for k, values in table.items()})


def entries(*pairs):
    tables = {r.key: table for r, table in pairs}
    return engine_report.entries([r for r, _ in pairs], lambda r: tables[r.key])


MADE = (record("native", "int8", 30, 20), record("native", "bf16", 24, 16),
        record("llamacpp", "q8_0", 60))  # fmt: skip


def test_bytes_bandwidth_and_quality_stand_beside_a_speed():
    beside = {"bytes_per_token": {"dense": 10**8}, "perplexity": {"dense": 12.345}}
    found = entries(record("llamacpp", "q8_0", 60, bandwidth=18e9, **beside))
    (row,) = engine_report.rows(found)
    assert (row["mb_per_token"], row["of_limit"], row["perplexity"]) == (100.0, "50%", 12.35)
    (step,) = engine_report.figures(found).values()
    assert step["llamacpp q8_0, MB per token"] == 100.0
    assert step["llamacpp q8_0, perplexity"] == 12.35


def test_a_prompt_has_its_share_of_the_peak():
    """90 tokens/s are 22.5 prompts of 4 tokens, and each has 10^9 operations."""
    found = entries(record("llamacpp", "q8_0", 60, step="prefill", flops=1e9, peak_flops=45e9))
    assert engine_report.rows(found)[0]["of_limit"] == "50%"


def test_a_timing_that_is_not_steady_and_a_busy_machine_are_said():
    calm = entries(record("llamacpp", "q8_0", 60, load=1.9))
    assert engine_report.rows(calm)[0]["noise"] == "1.0%"
    assert not any("warning" in k for k in engine_report.figures(calm).popitem()[1])
    found = entries(record("llamacpp", "q8_0", 60, noise={"dense": 0.144}, load=3.5))
    assert engine_report.rows(found)[0]["noise"] == "14.4%, not steady"
    (step,) = engine_report.figures(found).values()
    assert step["warning, llamacpp q8_0"].startswith("not steady") and "2.5" in step["warning"]


def test_a_ratio_is_block_by_block():
    found = entries(*MADE)
    assert [e.name for e in found] == [
        "native int8 2:4", "native int8", "native bf16 2:4", "native bf16", "llamacpp q8_0",
    ]  # fmt: skip
    assert [e.noise for e in found] == [0.02, 0.03, 0.02, 0.03, 0.01]
    fast, slow = found[0], found[4]
    assert engine_report.ratio(fast, slow) == pytest.approx((0.5, 0.5, 0.5))
    rows = engine_report.rows(found)
    assert rows[4] == {
        "engine": "llamacpp q8_0", "step": "decode after 8 tokens", "threads": 1,
        "tokens_per_s": 90.0, "mb_per_token": "", "of_limit": "", "perplexity": "", "noise": "1.0%",
        "ratio_of": "native int8 2:4 / llamacpp q8_0", "ratio": "0.50 (0.50 to 0.50)",
    }  # fmt: skip
    assert (rows[0]["ratio_of"], rows[0]["ratio"]) == ("", "")


def test_a_ratio_has_the_interval_of_its_blocks():
    """Student's, of the mean ln ratio."""
    uneven = PACE * np.tile([0.9, 1.1], BLOCKS // 2)
    found = entries(record("native", "int8", 30, 20, pace=uneven), MADE[2])
    logs = np.log(30 * uneven / (60 * PACE))
    low, high = np.exp(stats.t.interval(0.95, BLOCKS - 1, logs.mean(), stats.sem(logs)))
    wanted = np.array([np.exp(logs.mean()), low, high])

    assert engine_report.ratio(found[0], found[2]) == pytest.approx(tuple(wanted))
    assert low < 0.49 and high > 0.51
    assert engine_report.rows(found)[2]["ratio"] == f"{wanted[0]:.2f} ({low:.2f} to {high:.2f})"
    of_step = engine_report.figures(found)["decode after 8 tokens, 1 thread"]
    json.dumps(of_step, allow_nan=False)
    for slow, times in (("llamacpp q8_0", 1), ("native int8", 3)):
        ends = of_step[f"native int8 2:4 / {slow}"]
        assert ends == dict(zip(("median", "min", "max"), (wanted * times).round(3), strict=True))


@pytest.mark.parametrize(
    "other", [{"in_turn": ["c"]}, {"step": "prefill"}, {"model": "n"}, {"threads": 2}]
)
def test_what_was_timed_at_another_time_is_not_compared(other):
    found = entries(*MADE, record("torch", "bf16", 10, **other))
    assert [bool(row["ratio"]) for row in engine_report.rows(found)][-2:] == [True, False]


def test_of_a_model_timed_again_the_newest_counts():
    (again, table), (first, _) = record("llamacpp", "q8_0", 70), record("llamacpp", "q8_0", 60)
    again = again.model_copy(update={"key": "again", "provenance": {"recorded": "2026-01-02"}})
    (found,) = entries((again, table), (first, record("llamacpp", "q8_0", 60)[1]))
    assert found.record is again


def test_without_ours_the_first_sparse_side_is_compared():
    found = entries(record("onnxruntime", "fp32", 30, 20), record("llamacpp", "q8_0", 60))
    assert [row["ratio_of"] for row in engine_report.rows(found)][1:] == [
        f"onnxruntime fp32 2:4 / {slow}" for slow in ("onnxruntime fp32", "llamacpp q8_0")
    ]


def test_other_records_are_left_out():
    protocol = {"protocol": Protocol(name="linears")}
    identity = MADE[0][0].identity.model_copy(update=protocol)
    linears = Record(key="k", identity=identity, status="ok")
    failed, _ = record("torch", "bf16", 10, status="failed")
    assert engine_report.entries([linears, failed], lambda r: None) == []


def test_a_figure_has_every_entry(tmp_path):
    text = engine_report.draw(entries(*MADE), tmp_path / "f.svg").read_text()
    assert all(f">{name}</text>" in text for name in ("native int8 2:4", "llamacpp q8_0"))
    with pytest.raises(UserError, match="nothing to draw: no engine was timed"):
        engine_report.draw([], tmp_path / "f.svg")


def test_a_bar_is_the_median_and_its_whisker_the_blocks(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        Axes, "barh", lambda self, names, widths, **style: drawn.append((names, widths, style))
    )
    engine_report.draw(entries(*MADE), tmp_path / "f.svg")
    ((names, widths, style),) = drawn

    assert names[0] == "llamacpp q8_0" and names[-1] == "native int8 2:4"  # from the bottom up
    assert widths == pytest.approx([90, 24, 36, 30, 45])
    assert style["xerr"] == pytest.approx(np.array([[w / 3 for w in widths]] * 2))
    assert style["color"] == [engine_report.SERIES[name.endswith("2:4")] for name in names]
