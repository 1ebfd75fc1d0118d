"""An engine of another package, that of docs/examples."""

from types import SimpleNamespace

from bench.parts.speed import time_models
from helpers import plugins, runs


def test_an_engine_is_timed(tmp_path, monkeypatch, cache):
    plugins.install_examples(tmp_path / "site")
    runs.put_on_path(tmp_path / "site", monkeypatch)
    monkeypatch.setattr(time_models.Cpu, "peaks", lambda cpu: SimpleNamespace(bandwidth=1e9))
    monkeypatch.setattr(time_models, "BLOCK_S", 1e-3)
    monkeypatch.setattr(time_models, "PEAK_SIZE", 16)
    asked = time_models.ModelTimingRequest("tiny", "cpu", 1, ("eager",), (8,), None)
    records = list(time_models.measure(asked, tmp_path / "r", lambda line: None))
    runs.forget()
    assert {r.identity.protocol.engine for r in records} == {"eager"}
    assert all(r.status == "ok" and r.readings[0].value > 0 for r in records)
