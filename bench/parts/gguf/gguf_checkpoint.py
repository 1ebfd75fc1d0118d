"""GGUF files of llama.cpp, dequantized by transformers."""

from __future__ import annotations

from pathlib import Path

from bench.formats.checkpoint import Checkpoint, StoredBytes
from bench.inputs import gguf_header
from methods.model.families import FAMILIES


class GgufCheckpoint(Checkpoint):
    """A GGUF file, dequantized in the cache. One that is damaged or that transformers cannot read
    raises UserError."""

    def __init__(self, path: Path) -> None:
        from bench.inputs.download import pull  # imports pyarrow

        header = gguf_header.read(path)
        super().__init__(pull(str(path)).open())
        self.path = path
        # gguf has no name for mistral, whose tensors are those of llama.
        self._architecture = str(header.fields["general.architecture"]).replace("mistral", "llama")
        self._tensors = {
            name: (tensor.kind, tensor.size) for name, tensor in header.tensors.items()
        }
        kinds = sorted(
            {kind for name, (kind, _) in self._tensors.items() if name.startswith("blk.")}
            - set(gguf_header.FLOATS)
        )
        self.form = f"GGUF, {', '.join(kinds) or 'floats'}"
        self.is_quantized = self.is_packed = bool(kinds)

    def stored(self) -> dict[str, StoredBytes]:
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == self._architecture)
        family = FAMILIES[self.config["model_type"]]
        blocks = 1 + max((family.block_of(name) or 0 for name in self), default=0)
        names = get_tensor_name_map(arch, blocks)
        out = {}
        for name in self:
            theirs = names.get_name(name, try_suffixes=(".weight", ".bias")) or ""
            size = self._tensors[theirs][1] if theirs in self._tensors else 0
            out[name] = StoredBytes(size)
        return out
