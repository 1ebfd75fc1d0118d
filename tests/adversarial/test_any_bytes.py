"""Random bytes as records, configs and model files end in a sentence or in success."""

import json
import shutil
import struct
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.inputs import loading, models
from bench.results.record import parse
from bench.results.store import Store
from helpers import fake_records, runs
from helpers.limits import limits
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.folder import Folder
from methods.model.targets import find_targets

FEW, MANY = 5, 400

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
    "rope_scaling", "quantization_config", "layer_types", "id2label", "text_config", "auto_map",
    "attn_implementation", "transformers_weights", "attribute_map",
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


def weights():
    """A safetensors file whose header may be wrong."""
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    valid = struct.pack("<Q", len(dump(header))) + dump(header) + bytes(8)
    texts = DEEP | VALUES.map(dump)
    return mutated(valid) | texts.map(lambda text: struct.pack("<Q", len(text)) + text)


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
    """A kind of file: its reader, and a strategy for its content."""

    read: Callable
    examples: st.SearchStrategy


ANY = st.binary(max_size=60)
RECORD = fake_records.record().model_dump_json().encode()
KINDS = {
    "configs": Kind(
        read_config,
        configs() | configs() | VALUES.map(dump) | ANY | DEEP | mutated(dump(MODEL)),
    ),
    "safetensors headers": Kind(read_weights, weights() | ANY),
    "records": Kind(read_record, mutated(RECORD) | VALUES.map(dump) | ANY | DEEP),
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
    counts = {"read": 0, "refused": 0}

    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))
    @given(examples)
    def check(content):
        with limits():
            sentence = refusal(read, folder, content)
        counts["refused" if sentence else "read"] += 1
        assert len(sentence.splitlines()) <= 1, sentence

    check()
    assert counts["refused"] > counts["read"] / 100 and sum(counts.values()) >= count
