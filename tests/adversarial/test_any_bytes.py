"""Random bytes as records, configs and model files end in a sentence or in success."""

import json
import shutil
import struct
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.inputs import download, loading, models
from bench.results.record import parse
from bench.results.store import Store
from helpers import fake_records, gguf_files, runs
from helpers.limits import limits
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.folder import Folder
from methods.model.targets import find_targets

FEW, MANY = 10, 400

NUMBERS = (
    st.integers(-(2**70), 2**70)
    | st.sampled_from([-1, 0, 1, 2, 4, 32, 64, 128, 352, 1024, 2**31, 2**63, 10**30])
    | st.floats(allow_nan=True, allow_infinity=True)
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
DEEP = st.integers(1, 100_000).map(lambda depth: b"[" * depth)
MODEL = json.loads((runs.TINY / "config.json").read_text())
OTHER_KEYS = (
    "rope_scaling", "torch_dtype", "quantization_config", "layer_types", "sliding_window",
    "id2label", "num_labels", "architectures", "text_config", "attn_implementation",
    "_attn_implementation", "base_model_tp_plan", "auto_map", "transformers_weights",
    "problem_type", "output_hidden_states", "return_dict", "attribute_map", "torchscript",
)  # fmt: skip


def dump(value):
    return json.dumps(value).encode()


def mutated(content: bytes, reach: int | None = None):
    """Change up to five places of the content, or of its first `reach` bytes."""
    place = st.integers(0, (reach or len(content)) - 1)
    edit = st.tuples(place, st.integers(0, 12), st.binary(max_size=12))

    def apply(edits):
        out = bytearray(content)
        for at, drop, put in edits:
            out[at : at + drop] = put
        return bytes(out)

    return st.lists(edit, min_size=1, max_size=5).map(apply)


@st.composite
def configs(draw):
    """Draw tiny's config with some values of another type."""
    config = dict(MODEL)
    for key in draw(st.lists(st.sampled_from([*MODEL, *OTHER_KEYS]), min_size=1, max_size=3)):
        config[key] = draw(VALUES)
    return dump(config)


@st.composite
def weights(draw):
    """Draw a safetensors file whose header may be wrong."""
    known = ["a", "b", "model.norm.weight", "model.layers.0.x", "__metadata__"]
    names = st.sampled_from(known) | st.text(max_size=8)
    dtypes = st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "X"]) | SCALARS
    sizes = st.lists(st.integers(0, 6) | NUMBERS, max_size=4) | VALUES
    data = draw(st.binary(max_size=96))
    header, at = {}, 0
    for name in draw(st.lists(names, max_size=4)):
        end = draw(st.integers(at, len(data)) | st.just(len(data)))
        true = {"dtype": "U8", "shape": [end - at], "data_offsets": [at, end]}
        false = {"dtype": dtypes, "shape": sizes}
        false["data_offsets"] = st.just([at, end]) | st.lists(NUMBERS, max_size=3)
        for key in draw(st.lists(st.sampled_from(sorted(false)), max_size=2)):
            true[key] = draw(false[key])
        header[name] = true
        at = end
    text = draw(st.just(dump(header)) | st.binary(max_size=60) | DEEP)
    length = draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    return struct.pack("<Q", length) + text + data


def read_config(folder, content):
    (folder / "config.json").write_bytes(content)
    found = models.resolve(str(folder))
    opened = found.open()
    find_targets(opened.config, opened.shapes())
    loading.load(folder, Compute())


def read_weights(folder, content):
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(content)
    opened = Folder(folder)
    for name in opened:
        opened.tensor(name)


def read_gguf(folder, content):
    (folder / "x.gguf").write_bytes(content)
    shutil.rmtree(folder / "cache/models", ignore_errors=True)
    download.pull(str(folder / "x.gguf"))


def read_record(folder, content):
    """Read a record alone, and in a results folder, which moves a damaged one aside."""
    store = Store(folder / "r")
    (store.root / "records" / f"{fake_records.record().key[:32]}.json").write_bytes(content)
    list(store)
    try:
        parse(content, "x.json")
    except ValueError:
        raise UserError("no record") from None


class Kind(NamedTuple):
    """A kind of file: its reader, and a strategy for its content, given valid content."""

    read: Callable
    examples: Callable


ANY = st.binary(max_size=60)
RECORD = fake_records.record().model_dump_json().encode()
KINDS = {
    "configs": Kind(
        read_config,
        lambda _: configs() | configs() | VALUES.map(dump) | ANY | DEEP | mutated(dump(MODEL)),
    ),
    "safetensors headers": Kind(read_weights, lambda _: weights() | weights() | ANY),
    "GGUF files": Kind(
        read_gguf, lambda valid: mutated(valid, 400) | mutated(valid, 6000) | mutated(valid) | ANY
    ),
    "records": Kind(read_record, lambda _: mutated(RECORD) | VALUES.map(dump) | ANY | DEEP),
}


def refusal(read, folder, content):
    """Return the error, or "" on success."""
    try:
        read(folder, content)
    except UserError as fault:
        return str(fault)
    return ""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    runs.own_cache(tmp_path, monkeypatch)
    shutil.copytree(runs.TINY, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.full)])
@pytest.mark.parametrize("kind", KINDS)
def test_anything_is_a_sentence_or_success(folder, kind, count):
    read, examples = KINDS[kind]
    valid = gguf_files.write(folder / "valid.gguf").read_bytes()
    counts = {"read": 0, "refused": 0}

    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))
    @given(examples(valid))
    def check(content):
        with limits():
            sentence = refusal(read, folder, content)
        counts["refused" if sentence else "read"] += 1
        assert len(sentence.splitlines()) <= 1, sentence

    check()
    assert counts["refused"] > counts["read"] / 100 and sum(counts.values()) >= count
