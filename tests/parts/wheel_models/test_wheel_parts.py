"""Models whose GGUF file is in wheels of the package index, whole or in parts."""

import hashlib
import re
import zipfile
from pathlib import Path

import pytest

from bench.inputs import gguf_header, models
from bench.inputs.models import Alias
from bench.parts.wheel_models import wheel_parts
from helpers import gguf_files, runs

TERMS = "Terms of Toy, https://example.org/terms"
fetched = []
"""Wheels that were taken from the index."""


def make_wheel(folder, name, content, path="data/part"):
    with zipfile.ZipFile(folder / f"{name}-1.0.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/{path}", content)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder with the wheels of a model in two parts, and an alias `toy` for it."""
    runs.own_cache(tmp_path, monkeypatch)
    content = gguf_files.write(tmp_path / "toy.gguf").read_bytes()
    folder = tmp_path / "index"
    folder.mkdir()
    for name, part in (("toy_part1", content[:1000]), ("toy_part2", content[1000:])):
        make_wheel(folder, name, part)
    ref = " + ".join(f"toy-part{i}==1.0.0:toy_part{i}/data/part" for i in (1, 2))
    alias = Alias("pypi", ref, hashlib.sha256(content).hexdigest(), megabytes=1, terms=TERMS)
    monkeypatch.setitem(models.ALIASES, "toy", alias)
    fetched.clear()

    def fetch(requirement, target, alternative):
        fetched.append(requirement)
        (file,) = folder.glob(f"{requirement.partition('==')[0].replace('-', '_')}-*.whl")
        copy = Path(target) / file.name
        copy.write_bytes(file.read_bytes())
        return copy

    monkeypatch.setattr(wheel_parts, "download_wheel", fetch)
    return folder


@pytest.fixture
def pinned(index, tmp_path, monkeypatch):
    """The same with the digest of each part."""
    content = (tmp_path / "toy.gguf").read_bytes()
    parts = [(len(x), hashlib.sha256(x).hexdigest()) for x in (content[:1000], content[1000:])]
    about = {"dtype": "bfloat16", "parts": parts}
    monkeypatch.setattr(wheel_parts, "_pinned", lambda alias: about)
    return index


def test_parts_are_joined_and_the_terms_named_before(cli, index):
    code, out, err = cli("pull", "toy")
    assert code == 0 and out.startswith("toy: ")
    assert f"toy is a download of 1 MB under the {TERMS}: using it means agreeing to them" in err
    model = models.resolve("toy")
    assert model.terms == TERMS and "toy-part1==1.0.0, toy-part2==1.0.0 sha256:" in model.revision
    assert TERMS not in cli("pull", "toy")[2], "it is here"


def test_a_record_names_the_terms(cli, index, tmp_path):
    cli("pull", "toy")
    about = {"models": ("toy",), "methods": ("dense",), "measures": ("size",)}
    records = runs.measured(tmp_path / "r", **about).values()
    assert {record.notes["terms"] for record in records} == {TERMS}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("other part", "checksum mismatch: the GGUF file of toy-part1==1.0.0, toy-"),
        ("no wheel", "toy-part2==1.0.0 cannot be read"),
        ("missing part", "toy-part2==1.0.0 cannot be read (it has no toy_part2/data/part)"),
    ],
)
def test_a_damaged_part_is_one_sentence(cli, index, damage, said):
    make_wheel(index, "toy_part2", b"other", "x" if damage == "missing part" else "data/part")
    if damage == "no wheel":
        (index / "toy_part2-1.0.0-py3-none-any.whl").write_bytes(b"PK")
    code, _, err = cli("pull", "toy")
    assert code == 2 and said in err.splitlines()[-1] and models.resolve("toy") is None


def begun(cache):
    """Return the file of an interrupted download."""
    (file,) = (cache / "models").glob(".*.gguf.download")
    return file


def test_an_interrupted_download_goes_on_behind_its_last_whole_part(cli, pinned, tmp_path):
    second = pinned / "toy_part2-1.0.0-py3-none-any.whl"
    whole = second.read_bytes()
    second.write_bytes(b"PK")
    assert cli("pull", "toy")[0] == 2 and begun(tmp_path / "cache").stat().st_size == 1000
    with begun(tmp_path / "cache").open("ab") as file:
        file.write(b"half a part")
    second.write_bytes(whole)
    assert cli("pull", "toy")[0] == 0
    assert fetched == ["toy-part1==1.0.0", "toy-part2==1.0.0", "toy-part2==1.0.0"]
    assert models.resolve("toy").dtype == "bfloat16"
    assert not list((tmp_path / "cache/models").glob(".*"))


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (b"x" * 1000, "has sha256 "),
        (b"x" * 10**6, "has more than 1000 bytes"),
    ],
)
def test_no_byte_of_another_part_is_kept(cli, pinned, tmp_path, part, why):
    make_wheel(pinned, "toy_part1", part)
    code, _, err = cli("pull", "toy")
    assert code == 2 and why in err.splitlines()[-1]
    assert begun(tmp_path / "cache").stat().st_size == 0
    assert fetched == ["toy-part1==1.0.0"], "the next part was fetched"


@pytest.mark.parts("wheel_models")
@pytest.mark.parametrize(
    "name",
    [
        "smollm2-135m-instruct-q4",
        "gemma-3-270m",
        "qwen2.5-coder-0.5b-instruct-q4",
        "qwen2.5-coder-1.5b-instruct-q4",
    ],
)
def test_each_part_of_a_model_in_wheels_is_pinned(name):
    parts = wheel_parts.parts_of(models.find_alias(name))
    assert parts and all(part.bytes and part.sha256 for part in parts)


@pytest.mark.parts("wheel_models")
@pytest.mark.parametrize("size", ["0.5b", "1.5b"])
def test_the_origin_of_a_file_of_someone_unknown_is_said(size, cache):
    name = f"qwen2.5-coder-{size}-instruct-q4"
    said = (models.describe(name), models.describe_terms(name))
    assert all("Apache" in x and "unknown" in x and size.upper() in x for x in said)


@pytest.mark.parametrize("width", [16, None])
def test_gemma3s_heads_have_the_width_of_its_field(width):
    """Without the field, transformers builds heads of 256."""
    llama = {k: v for k, v in gguf_files.FIELDS.items() if k.startswith("llama.")}
    fields = {k.replace("llama.", "gemma3."): v for k, v in llama.items()}
    fields |= {"general.architecture": "gemma3", "gemma3.vocab_size": len(gguf_files.TOKENS)}
    fields |= {} if width is None else {"gemma3.attention.key_length": width}
    shapes, wide = dict(gguf_files.shapes()), (gguf_files.HEADS * 16, gguf_files.HIDDEN)
    for name in shapes:
        if "attn_output" in name:
            shapes[name] = wide[::-1]
        elif re.search("attn_[qkv].weight", name):
            shapes[name] = wide
    about = {"begin": 0, "size": 0, "kind": "F32"}
    tensors = {k: gguf_header._Tensor(shape=shape[::-1], **about) for k, shape in shapes.items()}
    header = gguf_header.Header(fields, tensors)
    if width:
        gguf_header._check_architecture(header)
        return
    with pytest.raises(ValueError, match=r"attn_q\.weight is \[32, 64\], and .* \[32, 1024\]"):
        gguf_header._check_architecture(header)
