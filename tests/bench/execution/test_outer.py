"""The embedding and the head of a quantized model: what is measured, stored and counted."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench import api
from bench.catalog.choice import as_typed
from bench.execution import outer
from bench.formats.stored import StoredFolder
from bench.planning.artifact import EmbeddingFormat
from bench.results import reproduce
from bench.results.artifacts import find_pruned
from bench.results.store import ReadOnlyStore
from bench.verify import CheckFailed
from helpers import runs
from methods.contract.errors import UserError
from methods.model.folder import Folder

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
pytestmark = pytest.mark.usefixtures("world", "in_tmp_path")


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    """tiny with a head of its own."""
    folder = runs.tiny(tmp_path_factory.mktemp("untied") / "m", tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    head = torch.randn(weights[f"{EMBEDDING}.weight"].shape, generator=torch.manual_seed(0))
    save_file(weights | {f"{HEAD}.weight": head / 8}, folder / "model.safetensors")
    return folder


def sizes(tmp_path, quantizer, **spec):
    """The readings of the size of the dense row under a quantizer, its record and its folder."""
    results = tmp_path / f"r{len(list(tmp_path.glob('r*')))}"
    spec = {"quantizers": (quantizer,), "measures": ("size",)} | spec
    runs.run_here(runs.small(results, **spec), only=["dense"])
    (record,) = (r for r in ReadOnlyStore(results) if r.identity.measure == "size")
    assert record.status == "ok", record.traceback
    values = {reading.metric: reading.value for reading in record.readings}
    return values, record, find_pruned(record.key, results)[0]


@pytest.mark.numeric
@pytest.mark.parametrize("stream", [False, True])
def test_both_are_measured_as_they_are_stored_and_counted_once(untied, tmp_path, stream):
    values, record, folder = sizes(
        tmp_path, "int4-rtn:embed=q6_k:head=int4", models=(str(untied),), stream=stream
    )
    assert record.identity.quantizer == "int4-rtn:embed=q6_k:head=int4"
    stored, measured, before = StoredFolder(folder), Folder(folder), Folder(untied)
    assert stored.outer == {EMBEDDING, HEAD} and len(stored.targets) == 28
    # Rows of 128 weights are no blocks of 256: they get Q8_0.
    assert [str(stored.codec(name)) for name in (EMBEDDING, HEAD)] == [
        "Q8_0",
        "integer of 4 bits in groups of 128",
    ]
    for name in (EMBEDDING, HEAD):
        weight = measured.tensor(f"{name}.weight")
        assert torch.equal(weight, stored.weight(name))
        assert not torch.equal(weight, before.tensor(f"{name}.weight"))
    rows, width = before.shapes()[f"{EMBEDDING}.weight"]
    assert values["embedding_parameters"] == 2 * rows * width
    assert values["embedding_bytes"] == rows * (width * 34 / 32) + rows * (width / 2 + 2)

    plain, old, _ = sizes(tmp_path, "int4-rtn:embed=none", models=(str(untied),), stream=stream)
    assert old.identity.quantizer == "int4-rtn" and "embedding_bytes" not in plain
    assert plain["bits_per_weight"] == values["bits_per_weight"]
    saved = 4 * values["embedding_parameters"] - values["embedding_bytes"]
    assert plain["bytes_packed"] - values["bytes_packed"] == pytest.approx(saved, abs=1)


def test_a_tied_head_is_stored_once_in_the_format_of_the_embedding(tmp_path):
    values, record, folder = sizes(tmp_path, "int8")
    assert record.identity.quantizer == "int8:embed=int8"
    assert StoredFolder(folder).outer == {EMBEDDING}
    rows, width = Folder(folder).shapes()[f"{EMBEDDING}.weight"]
    assert values["embedding_parameters"] == rows * width
    assert values["embedding_bytes"] == rows * (width + 2)
    assert "--quant int8:embed=int8 " in reproduce.command([record])


def test_a_format_that_gives_another_shape_fails(monkeypatch, tmp_path):
    folder = runs.tiny(tmp_path / "m")
    before = (folder / "model.safetensors").read_bytes()
    real = outer.registry.load

    def shorter(entry):
        return lambda weight: real(entry)(weight[:-1])

    monkeypatch.setattr(outer.registry, "load", shorter)
    with pytest.raises(CheckFailed, match=r"int8 decodes model\.embed_tokens\.weight to \[1023, "):
        outer.round_(folder, {"embed": EmbeddingFormat(name="int8", source="")})
    assert (folder / "model.safetensors").read_bytes() == before


def test_only_a_typed_format_moves_a_key():
    def keys(quantizer):
        spec = runs.small("r", quantizers=(quantizer,), measures=("size",))
        artifacts = [m.artifact for m in api.plan(spec).measurements]
        return {a.key: a.stages[-1].key_inputs() for a in artifacts if a.method == "dense"}

    (plain,) = keys("int8:embed=none").values()
    assert "outer" not in plain, "keys of older records"
    labels = ("int8", "int8:embed=none", "int8:embed=int4")
    assert len({key for label in labels for key in keys(label)}) == 3
    assert keys("int8") == keys("int8:embed=int8") == keys("int8:head=int8")


def test_an_older_label_is_typed_with_what_it_meant():
    assert as_typed("int4-rtn:group=32") == "int4-rtn:group=32:embed=none"
    for label in ("none", "kv8", "int8:embed=int4", "int8:embed=none:head=int8"):
        assert as_typed(label) == label
    assert as_typed("of-a-package") == "of-a-package:embed=none"


@pytest.mark.parametrize(
    ("quantizer", "said"),
    [
        ("int8:embed=int9", "unknown format in int8:embed= 'int9'"),
        ("int8:embed=int8:embed=int4", "embed is given twice"),
        ("int8:head=int4", "tiny has no head but its embedding: leave head=int4 out"),
        ("none:embed=int8", "none quantizes no weights; leave embed= out"),
        ("kv8:embed=int8", "kv8 quantizes no weights; leave embed= out"),
    ],
)
def test_what_is_no_format_is_refused(quantizer, said):
    with pytest.raises(UserError, match=said):
        api.plan(runs.small("r", quantizers=(quantizer,)))
