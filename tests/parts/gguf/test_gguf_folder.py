"""Folders of GGUF files: those of transformers, to the byte, with less memory."""

import gguf
import pytest
import torch

from bench.formats.checkpoint import content_digest
from bench.inputs import loading
from bench.parts.gguf import gguf_folder
from helpers import gguf_files
from methods.model.folder import Folder

HIDDEN, WIDTH = gguf_files.HIDDEN, gguf_files.HIDDEN // gguf_files.HEADS


def of_kind(kind, tensors=None, **sizes):
    """Return the arguments of `gguf_files.write` for another architecture of LLaMA's shape."""
    of_llama = {k: v for k, v in gguf_files.FIELDS.items() if k.startswith("llama.")}
    fields = {k.replace("llama.", f"{kind}."): v for k, v in of_llama.items()}
    fields |= dict.fromkeys(of_llama) | {f"{kind}.{k}": v for k, v in sizes.items()}
    all_blocks = {}
    for i in range(gguf_files.LAYERS):
        all_blocks |= {f"blk.{i}.{name}": shape for name, shape in (tensors or {}).items()}
    return fields, all_blocks, kind


GROUPED = {f"attn_{x}.weight": (2 * WIDTH, HIDDEN) for x in "kv"}
BIASES = {"attn_q.bias": (HIDDEN,)} | {f"attn_{x}.bias": (2 * WIDTH,) for x in "kv"}
NORMS = {f"{x}_norm.weight": (HIDDEN,) for x in ("post_attention", "post_ffw")}
NORMS |= {f"attn_{x}_norm.weight": (WIDTH,) for x in "qk"}
KINDS = {
    "llama": ({"llama.attention.head_count_kv": 2}, of_kind("", GROUPED)[1], "llama"),
    "qwen2": of_kind("qwen2", GROUPED | BIASES, **{"attention.head_count_kv": 2}),
    "gemma3": of_kind("gemma3", NORMS, **{"attention.key_length": WIDTH}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_that_of_transformers_to_the_byte(tmp_path, monkeypatch, kind):
    version = gguf_folder.CONFIG_VERSION
    monkeypatch.setattr("transformers.configuration_utils.__version__", version)
    (tmp_path / "in").mkdir()
    file = gguf_files.write(tmp_path / "in/x.gguf", *KINDS[kind])
    loading.convert_gguf(file, tmp_path / "theirs")
    gguf_folder.write(file, tmp_path / "ours")
    names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "ours").iterdir())
    for name in names:
        ours, theirs = (tmp_path / side / name for side in ("ours", "theirs"))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_a_family_that_was_not_compared_is_written_by_transformers(tmp_path, monkeypatch):
    calls, convert = [], loading.convert_gguf
    monkeypatch.setattr(loading, "convert_gguf", lambda *p: (calls.append(p), convert(*p)))
    monkeypatch.setattr(gguf_folder, "COMPARED", ("qwen2",))
    file = gguf_files.write(tmp_path / "x.gguf", *KINDS["llama"])
    gguf_folder.write(file, tmp_path / "m")
    assert calls == [(file, tmp_path / "m")] and set(KINDS) == {"llama", "qwen2", "gemma3"}


@pytest.mark.parametrize("compared", [True, False])
def test_another_version_of_transformers_writes_the_same_folder(tmp_path, monkeypatch, compared):
    monkeypatch.setattr(gguf_folder, "COMPARED", ("llama",) if compared else ())
    file = gguf_files.write(tmp_path / "x.gguf", *KINDS["llama"])
    digests = set()
    for version in ("5.0.0", "9.9.9"):
        monkeypatch.setattr("transformers.configuration_utils.__version__", version)
        gguf_folder.write(file, tmp_path / version)
        digests.add(content_digest(tmp_path / version))
    assert len(digests) == 1


@pytest.mark.parametrize("same", [True, False])
def test_a_head_is_tied_if_its_bytes_are_those_of_the_embedding(tmp_path, monkeypatch, same):
    shape = (len(gguf_files.TOKENS), HIDDEN)
    monkeypatch.setattr(gguf_folder, "PART_ROWS", 100)
    add = gguf.GGUFWriter.add_tensor
    kept = {}

    def add_tensor(writer, name, values):
        kept[name] = values.copy()
        if name == "output.weight":
            values = kept["token_embd.weight"].copy()
            values[-1, -1] += not same
        add(writer, name, values)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", add_tensor)
    file = gguf_files.write(tmp_path / "x.gguf", tensors={"output.weight": shape})
    gguf_folder.write(file, tmp_path / "m", torch.bfloat16)
    folder = Folder(tmp_path / "m")
    assert folder.is_tied == same and ("lm_head.weight" in folder) == (not same)
    embedding = torch.from_numpy(kept["token_embd.weight"])
    assert torch.equal(folder.tensor("model.embed_tokens.weight"), embedding.bfloat16())
    assert folder.config["dtype"] == "bfloat16"
