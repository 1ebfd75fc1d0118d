"""Rows as packed24."""

from bench.formats.writing import export_model


def test_packed24_has_the_groups_of_its_row(quantized_row, tmp_path):
    results, record = quantized_row("int4-rtn:group=8")
    said = export_model(record.key, "packed24", tmp_path / "out", results=results)

    assert said.endswith("28 linears packed, 5 bits per weight; all were on int4 grids already")
