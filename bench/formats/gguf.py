"""GGUF files of llama.cpp, dequantized by transformers."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from bench.formats.checkpoint import Checkpoint, StoredBytes
from bench.inputs import gguf_header
from bench.system import digests
from bench.system.cache import cache_dir
from bench.system.files import publish
from methods.families import FAMILIES
from methods.folder import Folder

FLOATS = ("F32", "F16", "BF16", "F64")


class GgufCheckpoint(Checkpoint):
    """A GGUF file. Its dequantized folder is kept in the cache, by content.

    Raises:
        UserError: it is damaged, or transformers cannot read it.
    """

    def __init__(self, path: Path) -> None:
        header = gguf_header.read(path)
        super().__init__(Folder(_dequantized(path)))
        self.path = path
        # gguf has no name for mistral, whose tensors are those of llama.
        self._architecture = str(header.fields["general.architecture"]).replace("mistral", "llama")
        self._tensors = {name: (tensor.kind, tensor.size) for name, tensor in header.tensors.items()}
        kinds = sorted({kind for name, (kind, _) in self._tensors.items() if name.startswith("blk.")} - set(FLOATS))
        self.form = f"GGUF, {', '.join(kinds) or 'floats'}"
        self.is_quantized = bool(kinds)

    @property
    def config(self) -> dict[str, Any]:
        return self.folder.config

    def stored(self) -> dict[str, StoredBytes]:
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == self._architecture)
        family = FAMILIES[self.config["model_type"]]
        blocks = 1 + max((family.block_of(name) or 0 for name in self), default=0)
        names = get_tensor_name_map(arch, blocks)
        out = {}
        for name in self:
            theirs = names.get_name(name, try_suffixes=(".weight", ".bias")) or ""
            out[name] = StoredBytes(self._tensors[theirs][1] if theirs in self._tensors else 0)
        return out


def _dequantized(file: Path) -> Path:
    """Return the folder of a file's dequantized model, which is made if it is not in the cache."""
    name = re.sub(r"[^\w.-]+", "--", file.stem)
    target = cache_dir() / "models" / f"{name}-{digests.of_file(file)[:16]}"
    if (target / "config.json").is_file():
        return target
    from bench.inputs.loading import convert_gguf  # imports transformers

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        # transformers would read other files of the folder.
        alone, folder = Path(temporary) / "alone", Path(temporary) / "model"
        alone.mkdir()
        (alone / "model.gguf").symlink_to(file.resolve())
        folder.mkdir()
        convert_gguf(alone / "model.gguf", folder)
        about = {"source": "gguf", "ref": str(file), "revision": "sha256:" + digests.of_file(file)}
        (folder / "PULLED.json").write_text(json.dumps(about))
        publish(folder, target)
    return target
