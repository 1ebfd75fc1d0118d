"""What an engine runs, and the bytes of its files."""

import pytest

from bench.inputs.shapes import planned_model
from bench.reporting import serving, similar_models
from bench.reporting.facts import Facts
from bench.reporting.view import Table, TableCell, TableColumn, TableRow

NUMBERS = ("parameters", "bytes", "bytes_packed", "bits_per_weight")
ROWS = (
    # method, pattern, quantizer, bytes_packed, bits: 1,000 weights, 800 of them targets, 16 bits
    ("dense", "dense", "none", 2000.0, 16.0),
    ("dense", "dense", "int4-gptq:embed=none", 800.0, 4.0),
    ("wanda", "2:4", "int4-gptq:embed=none", 700.0, 3.0),
    ("wanda", "2:4", "none", 1300.0, 9.0),
    ("dense", "dense", "lut4:embed=none", 800.0, 4.0),
)


def table():
    columns = tuple(TableColumn(name, "weights", "lower", "1") for name in NUMBERS)
    rows = []
    for method, pattern, quantizer, packed, bits in ROWS:
        filters = {"method": method, "pattern": pattern, "quantizer": quantizer, "model": "m"}
        values = (1000.0, 2000.0, packed, bits)
        cells = tuple(TableCell(f"{value:g}", value) for value in values)
        is_made = (pattern, quantizer) != ("dense", "none")
        facts = Facts(compressed=is_made, bytes=packed, make="bench prune --out made")
        rows.append(TableRow(f"{method} {quantizer}", (), filters, cells, facts=facts))
    return Table("m", ("method", "pattern", "quantizer"), columns, tuple(rows))


@pytest.mark.parts("gptq", "gguf", "onnx", "packed24", "compressed_tensors")
@pytest.mark.parametrize(
    ("engine", "sizes"),
    [
        # The zeros of a pattern take bytes in every file but those of this project.
        ("vllm", [800.0, 800.0, 2000.0, None]),
        ("llama.cpp", [850.0, 850.0, 2000.0, None]),
        ("tensorrt", [None, None, 2000.0, None]),
        ("native", [800.0, 700.0, 1300.0, 800.0]),
    ],
)
def test_sizes_are_those_of_the_files_of_an_engine(engine, sizes):
    facts = [row.facts for row in serving.ship(table(), engine).rows[1:]]

    assert [f.bytes if f.compressed else None for f in facts] == sizes


@pytest.mark.parts("gguf")
def test_the_export_and_the_serving_line_are_those_of_the_engine():
    facts = serving.ship(table(), "llama.cpp").rows[1].facts

    assert facts.export == "bench export made --format gguf --out made-gguf.gguf"
    assert facts.serve == "llama-server -m made-gguf.gguf"


@pytest.mark.parts("gptq", "compressed_tensors")
def test_sizes_from_shapes_alone():
    model = planned_model("meta-llama/Llama-3.1-8B-Instruct")
    near = similar_models.nearest("llama", 8e9)
    sizes = {one.quantizer: one for one in serving.suggest(model, "vllm", near)}

    assert sizes["none"].megabytes == pytest.approx(16_061, abs=1)
    assert sizes["int4-gptq"].export == "gptq" and 5500 < sizes["int4-gptq"].megabytes < 6000


def test_papers_about_a_base_model_are_found_by_the_names_of_its_variants():
    found = similar_models.papers_about("meta-llama/Llama-3.1-8B-Instruct")

    assert {row.model for row in found} == {"LLaMA3.1-8B"}
    assert found == similar_models.papers_about("models/Meta-Llama-3.1-8B/")
    assert not similar_models.papers_about("nobody/model")
