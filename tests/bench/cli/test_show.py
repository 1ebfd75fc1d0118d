"""bench show: one record in words, or all of it as JSON."""

import json

import pytest

from bench.results.record import ReadingRow
from helpers import fake_records


@pytest.fixture
def shown(tmp_path, cli):
    """shown(record, *readings) -> its lines, without those of the table's head, by the first
    word."""

    def run(record, *readings):
        fake_records.put(tmp_path / "r", record, readings=readings)
        code, out, err = cli("show", record.short_key, "--results", tmp_path / "r")
        head = out.splitlines()[0].split()
        assert (code, err, head) == (0, "", ["record", record.stem])
        return out.splitlines()[2:]

    return run


def facts(lines):
    return {line.split("  ")[0]: line.partition("  ")[2].strip() for line in lines}


def test_numbers_settings_and_what_made_them(shown):
    versions = {"python": "3.11.7", "torch": "2.13.0"}
    commit = {"id": "0123456789abcdef", "dirty": True}
    record = fake_records.record(
        "sparsegpt", 0, "mine", identity={"calibration": "c4@512x32"}, key_inputs={"threads": 2},
        cost={"build_s": 197.584, "wall_s": 26.9, "peak_bytes": 1694420992, "tokens": 20480},
        provenance={"versions": versions, "commit": commit}
    )  # fmt: skip
    numbers = (
        ReadingRow(
            metric="score", value=37.64317, unit="1", better="lower", stderr=2.45984, n=1200
        ),
        ReadingRow(metric="room", value=269030016.0, unit="B", better="lower"),
        ReadingRow(metric="pace", value=702.679, unit="tokens/s", better="higher", n=12),
    )

    assert facts(shown(record, *numbers)) == {
        "model": "tiny", "method": "sparsegpt", "pattern": "2:4", "quantizer": "none", "seed": "0",
        "measure": "mine", "protocol": "wiki-mini@128", "calibration": "c4@512x32",
        "targets": "*", "dtype": "float32", "device": "cpu", "threads": "2", "status": "ok",
        "score": "37.6 ± 2.5, standard error over 1,200", "room": "269.0 MB",
        "pace": "702.7 tokens/s", "took": "3.3 min to make, 27 s to measure, 1.7 GB",
        "recorded": "2026-01-01T00:00:00Z", "commit": "0123456789ab, changed since",
        "versions": "python 3.11.7, torch 2.13.0", "machine": "EPYC",
    }  # fmt: skip


def test_one_that_failed_has_its_reason_and_its_traceback(shown, tmp_path, cli):
    record = fake_records.record(
        "cast", status="failed", reason="it is odd", traceback="Traceback:\n  line 1\nOddError"
    )
    lines = shown(record)

    assert facts(lines)["status"] == "failed: it is odd"
    assert lines[-3:] == ["Traceback:", "  line 1", "OddError"]
    whole = json.loads(cli("show", record.short_key, "--results", tmp_path / "r", "--json")[1])
    assert whole == json.loads(record.model_dump_json())
