"""Times by the shape and the bits of the weights, from records of one turn."""

from types import SimpleNamespace

import numpy as np
import pytest

from bench.results.identity import Identity, Protocol
from bench.results.record import Record

PACE = np.tile([0.9, 1.1], 6)


SCRIPT = "frontier"


def record(engine, kind, rate, model="m", sparse=None, threads=1):
    identity = Identity(
        model=model, stages=("x",), pattern="dense", measure="speed",
        protocol=Protocol(name="prefill", seqlen=128, engine=engine), dtype=kind,
    )  # fmt: skip
    notes = {"threads": threads, "kv_tokens": 0, "prompt_tokens": 128, "beside": "m"}
    notes |= {"in_turn": [str(threads)], "flops": 1e9, "peak_flops": 1e10}
    notes["noise"] = {"dense": 0.01} | ({"2:4": 0.02} if sparse else {})
    key = f"{engine}{kind}{model}{threads}"
    made = Record(key=key, identity=identity, status="ok", notes=notes)
    made.provenance = {"machine": {"cpu": "CPU"}}
    columns = {"value": (sparse or rate) * PACE}
    if sparse:
        columns["tokens_per_s_dense"] = rate * PACE
    return made, SimpleNamespace(columns=columns)


@pytest.fixture
def folder(script, monkeypatch):
    """Rates of dense and 2:4 in two engines, and of a smaller model."""
    made = [
        record("native", "bf16", 80.0, sparse=160.0), record("llamacpp", "fp16", 100.0),
        record("native", "int8", 100.0, sparse=90.0), record("llamacpp", "q4_k_m", 500.0),
        record("native", "bf16", 50.0, "depth 50%"), record("llamacpp", "fp16", 200.0, "depth 50%"),
        record("llamacpp", "fp16", 150.0, threads=2),
    ]  # fmt: skip
    tables = {one.key: table for one, table in made}

    class Store(list):
        def items(self, one):
            return tables[one.key]

    monkeypatch.setattr(script, "ReadOnlyStore", lambda path: Store(one for one, _ in made))
    script._turns.cache_clear()
    yield "folder"
    script._turns.cache_clear()


def test_a_shape_takes_the_time_of_its_fastest_engine(script, folder):
    found = script.milliseconds(folder, "m", "prompt")
    rates = {("dense", 16): 100, ("2:4", 16): 160, ("depth 50%", 16): 200}
    rates |= {("dense", 8): 100, ("2:4", 8): 100}
    times = {script.TimedShape(*shape): 1000 * 128 / rate for shape, rate in rates.items()}
    assert found == pytest.approx(times)
    assert not script.milliseconds(folder, "m", "decode")
    assert not script.milliseconds(folder, "another", "prompt")
