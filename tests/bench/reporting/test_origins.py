"""The line on where the numbers of a table come from."""

from bench.comparing.result_arguments import read
from bench.reporting import board, origins
from helpers import fake_records


def test_several_processors_versions_and_dirty_records_are_said(tmp_path):
    machine = {"cpu": "EPYC", "cpu_model": "25/1/1", "isa": "AVX2", "device": None}
    other = {"id": "d" * 40, "dirty": True}
    fake_records.perplexity(tmp_path, method="dense", provenance={"machine": machine})
    assert origins.describe(read(tmp_path).records) == ""
    fake_records.perplexity(tmp_path, 0.1, provenance={"commit": other})
    fake_records.bits(tmp_path, 9.0, provenance={"commit": other})

    (table,) = board.make_sections([read(tmp_path)])[0].tables

    (line,) = (note for note in table.notes if "processors" in note)
    assert "2 processors (EPYC, EPYC (Zen 3, AVX2)) and 2 versions of the code." in line
    assert "Not of the most common processor and version: wanda 2:4." in line
    assert "2 records (†) were made by code with uncommitted changes." in line
    marked = [row.name for row in table.rows if row.labels[0].endswith("†")]
    assert marked == ["wanda 2:4"]
