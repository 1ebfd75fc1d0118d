"""Costs, answer and picture of the comparison of 2:4 in the docs."""

from types import SimpleNamespace

import pytest

from methods.contract.pattern import Pattern

SCRIPT = "frontier"


def record(method, measure, values, pattern="dense", quantizer="none", seed=0):
    about = {"method": method, "quantizer": quantizer, "pattern": pattern, "seed": seed}
    identity = SimpleNamespace(model="tiny", measure=measure, **about)
    readings = [SimpleNamespace(metric=metric, value=value) for metric, value in values.items()]
    return SimpleNamespace(identity=identity, readings=readings)


def test_costs_of_a_row(script, monkeypatch):
    """Two seeds have their geometric mean."""
    targets = {"dense": 100, "depth:drop=25%": 75}
    rows = {
        "sparsegpt": "2:4",
        "s + lowrank:rank=4:joint=9 + recon": "2:4 + r4",
        "depth:drop=25%": "depth 25%",
        "ria": "4:8",
        "dense": "dense",
    }
    records = []
    for method, pattern in rows.items():
        drawn = {None: 20.0} if pattern == "dense" else {0: 10.0, 1: 40.0}
        for seed, value in drawn.items():
            values = {"perplexity": value}
            records.append(record(method, "perplexity", values, pattern, seed=seed))
        sizes = {"bytes_packed": 50.0} | ({"relative_flops": 0.6} if "lowrank" in method else {})
        records.append(record(method, "size", sizes, pattern))
    results = SimpleNamespace(records=records)
    results.items = lambda one: SimpleNamespace(weights=[targets.get(one.identity.method, 100)])
    monkeypatch.setattr(script, "merge", lambda _: results)
    times = {("2:4", 16): 25.0, ("dense", 16): 30.0, ("dense", 8): 1.0, ("depth 25%", 16): 20.0}

    def milliseconds(folder, model, step):
        factor = 9 if step == "prompt" else 1
        return {script.TimedShape(*shape): factor * ms for shape, ms in times.items()}

    monkeypatch.setattr(script, "milliseconds", milliseconds)

    found = {row.name: row for row in script.read("some results")}

    assert [row.perplexity for row in found.values()] == [pytest.approx(20.0)] * len(rows)
    # No kernel adds a term.
    decoded = {"sparsegpt 2:4": 25.0, "depth:drop=25%": 20.0, "ria 4:8": 30.0, "dense": 30.0}
    assert {name: row.decode_ms for name, row in found.items() if row.decode_ms} == decoded
    prompts = {name: row.prompt_ms for name, row in found.items() if row.prompt_ms}
    assert prompts == {name: 9 * ms for name, ms in decoded.items()}
    assert [name for name, row in found.items() if row.repeated] == ["dense"]
    arithmetic = {name: row.arithmetic for name, row in found.items()}
    assert arithmetic == {
        "sparsegpt 2:4": 0.5, "s + lowrank:joint=9 + recon 2:4 + r4": pytest.approx(0.6),
        "depth:drop=25%": 0.75, "ria 4:8": 1.0, "dense": 1.0
    }  # fmt: skip


def test_measured_times_have_a_panel_and_an_answer(script, monkeypatch):
    rows = [
        script.Row(f"m{i}", "none", Pattern.parse("2:4"), 20.0 + i, 50.0, 0.5, 3.0 - i, 70.0)
        for i in range(3)
    ]
    rows.append(script.Row("dense", "none", Pattern(), 10.0, 100.0, 1.0, 9.0, 60.0))
    rows.append(script.Row("wide", "none", Pattern(), 30.0, 50.0, 0.5, 3.0, 70.0))
    rows.append(script.Row("once", "none", Pattern.parse("2:4"), 1.0, 1.0, 0.01, repeated=False))
    monkeypatch.setattr(script, "read", lambda _: tuple(rows))

    answer, table = script.worth("x", "2:4").split("\n\n")
    assert "Bytes: yes. The arithmetic of a prompt on sparse tensor cores: yes." in answer
    assert "Decoding on this CPU: yes. A prompt on this CPU: no." in answer
    assert table.startswith("| | m0 2:4, perplexity 20.00 | best row at equal or lower cost |")
    assert "| decoding on this CPU | 3 ms | none | m2 2:4, m1 2:4, m0 2:4, dense |" in table
    assert "| a prompt on this CPU | 70 ms | dense, 60 ms, perplexity 10.00 | dense |" in table
    # Times that differ by 4% are the same, as a timing and its repetition are.
    rows[-1] = script.Row("near", "none", Pattern(), 11.0, 50.0, 1.0, 3.12, 60.0)
    answer = script.worth("x", "2:4")
    assert "| decoding on this CPU | 3 ms | near, 3.12 ms, perplexity 11.00 |" in answer
    assert "| bytes | 0.00 MB | near, 0.00 MB, perplexity 11.00 |" in answer
    rows[-1] = rows[-1]._replace(decode_ms=3.2)
    assert "Decoding on this CPU: yes" in script.worth("x", "2:4")
    del rows[-2:]
    drawn = script.picture("x")
    assert "decoding of a token, one core, ms" in drawn and "prompt, one core, ms" in drawn
    assert [len(front.points) for front in script.fronts("x")] == [4] * 4


def test_an_answer_needs_a_competitor_of_another_pattern(script, monkeypatch):
    rows = [
        script.Row("a", "none", Pattern.parse("2:4"), 20.0, 50.0, 0.5),
        script.Row("b", "int4", Pattern.parse("2:4"), 25.0, 20.0, 0.5),
        script.Row("depth", "none", Pattern(), 30.0, 50.0, 0.5, repeated=False),
        script.Row("dense", "none", Pattern(), 10.0, 100.0, 1.0),
    ]
    monkeypatch.setattr(script, "read", lambda _: tuple(rows))
    assert "sparse tensor cores: not known, as no other pattern" in script.worth("x", "2:4")
    rows[2] = rows[2]._replace(repeated=True)
    assert "sparse tensor cores: yes." in script.worth("x", "2:4")


def test_the_file_that_a_model_was_read_from_competes_by_its_bytes(script, monkeypatch):
    model = "smollm2-135m-instruct-q4"
    records = []
    for method, quantizer, size in (("dense", "none", 269e6), ("dense", "int8", 163e6)):
        values = {"perplexity": 20.0}
        records.append(record(method, "perplexity", values, quantizer=quantizer, seed=None))
        records.append(record(method, "size", {"bytes_packed": size}, quantizer=quantizer))
    for one in records:
        one.identity.model = model
    results = SimpleNamespace(records=records, items=lambda one: SimpleNamespace(weights=[1.0]))
    monkeypatch.setattr(script, "merge", lambda _: results)
    monkeypatch.setattr(script, "milliseconds", lambda *_: {})

    rows = {row.name: row for row in script.read("of a file")}
    assert rows["Q4_1 file"].size == script.quantized_file(model).bytes
    assert rows["Q4_1 file"].perplexity == rows["dense"].perplexity
    (front, *_) = script.fronts("of a file")
    assert [point.name for point in front.optimal] == ["Q4_1 file"]
