"""The bytes of exported files against those that the row counts."""

import math
from types import SimpleNamespace

import pytest
from gguf import GGUFReader

from bench.comparing import result_arguments
from bench.formats.opening import open_checkpoint
from bench.formats.writing import export_model
from bench.reporting import answer_json, serving
from bench.results.artifacts import find_pruned
from bench.results.store import ReadOnlyStore
from helpers import runs
from methods.contract.errors import UserError
from methods.model.folder import Folder
from methods.model.header import read_header
from methods.model.targets import find_targets

EMBEDDING = "model.embed_tokens.weight"
FILES = [
    ("dense", "none", "hf"),
    ("dense", "int8", "stored"),
    ("dense", "int4-rtn:embed=int4", "stored"),
    ("dense", "nvfp4:embed=q6_k", "stored"),
    ("magnitude", "int4-rtn:embed=int8", "stored"),
    ("magnitude", "int8", "packed24"),
    ("magnitude", "int4-rtn:embed=int4", "packed24"),
    ("dense", "int4-rtn:group=32:embed=q6_k", "gguf"),
    ("dense", "int4-rtn:group=32:embed=none", "gguf"),
    ("dense", "nvfp4:embed=none", "compressed-tensors"),
    ("dense", "int8:embed=none", "compressed-tensors"),
    ("dense", "int4-rtn:embed=none", "compressed-tensors"),
    ("dense", "int8:embed=none", "gptq"),
    ("dense", "int4-rtn:embed=none", "gptq"),
    ("dense", "int4-rtn:embed=none", "awq"),
    ("dense", "int8:embed=none", "gguf"),
]
"""Rows, and formats that leave out none of what the row counts."""
pytestmark = pytest.mark.parts("packed24", "gptq", "gguf", "compressed_tensors")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The results, and a row's record of its size by method and quantizer as typed."""
    folder = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        runs.own_cache(folder, patch)
        for method in ("dense", "magnitude"):
            typed = tuple(
                dict.fromkeys(quantizer for name, quantizer, _ in FILES if name == method)
            )
            asked = {"quantizers": typed, "measures": ("size",), "dtype": "bfloat16"}
            spec = runs.small(folder / "r", methods=(method,), **asked)
            runs.run_here(spec, only=[method])
        found = {}
        for record in ReadOnlyStore(spec.results):
            if record.identity.measure == "size":
                found[record.identity.method, record.identity.quantizer] = record
        yield SimpleNamespace(results=spec.results, records=found)


def record_of(rows, method, quantizer):
    label = quantizer.removesuffix(":embed=none")
    if quantizer != "none" and ":embed=" not in quantizer:
        label += ":embed=int8"
    return rows.records[method, label]


def values_of(record):
    return {reading.metric: reading.value for reading in record.readings}


def tensor_bytes(folder):
    """Bytes of all tensors in the files of a folder, without headers and vocabularies."""
    total = sum(int(t.n_bytes) for f in folder.glob("*.gguf") for t in GGUFReader(f).tensors)
    for file in folder.rglob("*.safetensors"):
        tensors = read_header(file.parent, file.name).values()
        total += file.stat().st_size - min(tensor.begin for tensor in tensors)
    return total


def added_bytes(quantizer, format_, folder):
    """Bytes that a format adds to those of a row.

    GPTQ and AWQ have one group for all linears, a zero point for each, and GPTQ the group of each
    input. Q8_0 has a scale for 32 weights.
    """
    bits = 8 if quantizer.startswith("int8") else 4
    targets = find_targets(folder.config, folder.shapes())
    shapes = [folder.shapes()[f"{name}.weight"] for name in targets]
    own = {width: width if bits == 8 else math.gcd(width, 128) for _, width in shapes}
    group = min(own.values())
    added = 0
    for out, width in shapes:
        if format_ in ("gptq", "awq"):
            groups = 1 if bits == 8 else width // group
            added += out * groups * bits / 8 + 2 * out * (groups - width // own[width])
            added += 4 * width * (format_ == "gptq")
        elif format_ == "gguf" and bits == 8:
            added += 2 * out * (width // 32 - 1)
    return added


@pytest.mark.parametrize(("method", "quantizer", "format_"), FILES)
def test_exported_files_have_the_bytes_of_the_row(method, quantizer, format_, rows, tmp_path):
    record = record_of(rows, method, quantizer)
    export_model(record.key, format_, tmp_path / "out", results=rows.results)

    counted = values_of(record)["bytes_packed"]
    measured = Folder(find_pruned(record.key, rows.results)[0])
    expected = counted + added_bytes(quantizer, format_, measured)
    assert tensor_bytes(tmp_path / "out") == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("engine", "quantizer", "format_"),
    [
        ("vllm", "int8:embed=none", "gptq"),
        ("vllm", "int4-rtn:embed=none", "gptq"),
        ("llama.cpp", "int8:embed=none", "gguf"),
        ("native", "int4-rtn:embed=int4", "stored"),
    ],
)
def test_sizes_for_an_engine_are_those_of_its_files(engine, quantizer, format_, rows, tmp_path):
    record = record_of(rows, "dense", quantizer)
    export_model(record.key, format_, tmp_path / "out", results=rows.results)
    board = answer_json.choose_board("tiny", result_arguments.read(rows.results))
    shipped = serving.ship(board.make_table(), engine).rows
    named = {(row.filters["method"], row.filters["quantizer"]): row for row in shipped}
    size = named["dense", record.identity.quantizer].facts.bytes

    assert tensor_bytes(tmp_path / "out") == pytest.approx(size, rel=0.01)


@pytest.mark.numeric
@pytest.mark.parametrize("format_", ["stored", "packed24"])
def test_the_embedding_is_read_again_as_it_was_measured(format_, rows, tmp_path):
    record = record_of(rows, "magnitude", "int4-rtn:embed=int4")
    said = export_model(record.key, format_, tmp_path / "out", results=rows.results)
    measured = Folder(find_pruned(record.key, rows.results)[0])
    again = open_checkpoint(tmp_path / "out")

    assert "model.embed_tokens as integer of 4 bits" in said
    assert again.shapes() == measured.shapes()
    assert again.tensor(EMBEDDING).equal(measured.tensor(EMBEDDING))
    assert sum(again.stored()[EMBEDDING]) == values_of(record)["embedding_bytes"]


def test_a_changed_embedding_of_packed24_is_refused(rows, tmp_path):
    record = record_of(rows, "magnitude", "int8")
    export_model(record.key, "packed24", tmp_path / "out", results=rows.results)
    file = tmp_path / "out/stored/model.safetensors"
    content = bytearray(file.read_bytes())
    content[read_header(file.parent, file.name)["model.embed_tokens.codes"].begin] ^= 1
    file.write_bytes(content)

    with pytest.raises(UserError, match=r"checksum mismatch: model\.embed_tokens\.weight"):
        open_checkpoint(tmp_path / "out").tensor(EMBEDDING)
