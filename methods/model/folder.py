"""Model folders: config.json and safetensors, read tensor by tensor and written shard by shard.
Never pickle."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from methods.contract.errors import UserError
from methods.model.families import FAMILIES, Family
from methods.model.header import TORCH_DTYPES, TensorInfo, read_header
from methods.model.safe_files import find_file, read_object
from methods.model.save_tensors import save_tensors
from methods.model.stored_experts import Piece, renamed, split

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from methods.model.stacks import Stacks

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
SHARD_BYTES = 2 * 2**30
HEADS = ("lm_head.", "embed_out.")
"""Prefixes of tensors outside the base model. They have no other prefix in any file."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
TIED = tuple(head + "weight" for head in HEADS)
CONSTANTS = re.compile(r"\.(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$")
"""Names of causal masks and rotary frequencies, which older files contain."""
FLOAT_TYPES = ("float32", "bfloat16", "float16")
"""Number formats that models run in."""
ALIGNMENT = 64
"""Alignment of torch's tensors in bytes."""


class _StoredPiece(NamedTuple):
    """The place of a piece of an expert's tensor."""

    shard: str
    name: str
    """Name of the stored tensor in the shard."""
    info: TensorInfo
    piece: Piece


class Folder:
    """A model on disk. Tensor names are those of the model's state dict, even if its file leaves
    out a prefix."""

    def __init__(self, path: Path, *, mapped: bool = False) -> None:
        """mapped: map the files into memory, so that a page takes memory of this process only after
        a write."""
        self.path, self._mapped = path, mapped
        self.config = read_config(path)
        self._family = family = FAMILIES.get(self.config.get("model_type", ""))
        self._open: dict[str, Any] = {}
        # State-dict name -> (shard, name in the shard).
        self._where: dict[str, tuple[str, str]] = {}
        self._tensors: dict[str, TensorInfo] = {}
        self._pieces: dict[str, dict[int, _StoredPiece]] = {}  # of experts' tensors, by part
        self.tied_heads: dict[str, tuple[str, TensorInfo]] = {}
        """Stored heads that are tied to the embedding, each with its shard."""
        self._files = self._shards()
        for shard in self._files:
            for name, info in read_header(path, shard).items():
                if CONSTANTS.search(name):
                    continue
                if name in TIED and self.is_tied:
                    self.tied_heads[name] = (shard, info)
                    continue
                full, pieces = name, []
                if family:
                    if not name.startswith((family.base, *HEADS)):
                        full = family.base + name
                    full = renamed(family, full)
                    pieces = split(family, full, info.shape)
                if pieces:
                    for piece in pieces:
                        self._add_piece(shard, name, info, piece)
                    continue
                if full in self._where:
                    raise UserError(
                        f"{path} stores the tensor {full} twice: download or write it again"
                    )
                self._where[full] = (shard, name)
                turned = family is not None and family.turns(full)
                self._tensors[full] = info._replace(shape=info.shape[::-1]) if turned else info

    def _add_piece(self, shard: str, name: str, info: TensorInfo, piece: Piece) -> None:
        """Register a tensor of all experts, or a part of one expert, as a piece of an expert's
        tensor."""
        self._where.setdefault(piece.name, (shard, name))
        pieces = self._pieces.setdefault(piece.name, {})
        if piece.part in pieces:
            raise UserError(
                f"{self.path} stores the tensor {piece.name} twice: download or write it again"
            )
        pieces[piece.part] = _StoredPiece(shard, name, info, piece)
        rows = sum(stored.piece.shape[0] for stored in pieces.values())
        self._tensors[piece.name] = TensorInfo(info.dtype, (rows, *piece.shape[1:]))

    @property
    def is_tied(self) -> bool:
        """True if the output head is the embedding."""
        tied: bool = self.config.get(
            "tie_word_embeddings", self._family is not None and self._family.tied
        )
        return tied

    def _shards(self) -> list[str]:
        index = self.path / INDEX
        try:
            about = read_object(self.path, INDEX)
            if about is not None:
                names = sorted(set(about["weight_map"].values()))
            else:
                names = [WEIGHTS] if find_file(self.path, WEIGHTS, None) else []
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
            raise UserError(
                f"invalid shard index {index} ({fault}): download or write it again"
            ) from None
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:
                raise UserError(f"invalid shard index {index}: {name!r} is outside its folder")
        if (
            about is not None
            and names not in ([], [WEIGHTS])
            and find_file(self.path, WEIGHTS, None)
        ):
            raise UserError(
                f"{self.path} has {WEIGHTS} and {INDEX}, which names others: delete one of them"
            )
        if not names:
            pickle = next((file for end in PICKLES for file in self.path.glob(f"*{end}")), None)
            if pickle:
                raise UserError(
                    f"{self.path} has pickled weights ({pickle.name}), which can run code when "
                    "they are read: convert them to safetensors first"
                )
            if (self.path / "packed24.json").exists():
                raise UserError(
                    f"{self.path} is a packed24 folder: unpack it first with bench export "
                    f"{shlex.quote(str(self.path))} --format hf --out DIR"
                )
            raise UserError(f"no {WEIGHTS} in {self.path}: use a folder with safetensors weights")
        return names

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def files(self) -> list[Path]:
        """Return the shards, sorted by name."""
        return [self.path / s for s in self._files]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor in the model."""
        return {name: info.shape for name, info in self._tensors.items()}

    def dtypes(self) -> dict[str, str]:
        """Return the dtype of each tensor by its name in the format, for example "BF16"."""
        return {name: info.dtype for name, info in self._tensors.items()}

    @property
    def dtype(self) -> str:
        """Format of most weights: float32, bfloat16 or float16. float32 for any other format."""
        counts: Counter[str] = Counter()
        for info in self._tensors.values():
            counts[TORCH_DTYPES.get(info.dtype, "")] += math.prod(info.shape)
        most = max(counts, key=counts.__getitem__, default="")
        return most if most in FLOAT_TYPES else "float32"

    def tensor(self, name: str) -> Tensor:
        """Read one tensor of the model, on the CPU, in the dtype of the file."""
        if name in self._pieces:
            tensor = self._join(self._pieces[name])
        else:
            shard, inner = self._where[name]
            tensor = self._file(shard).get_tensor(inner)
        if self._family and self._family.turns(name):
            # A copy would be no page of the file.
            return tensor.T if self._mapped else tensor.T.contiguous()
        # the rounding of products depends on the alignment of their operands, and a reader aligns
        # none
        if tensor.data_ptr() % ALIGNMENT and not self._mapped:
            return tensor.clone()
        return tensor

    def _file(self, shard: str) -> Any:
        from safetensors import safe_open

        if shard not in self._open:
            # pages of a mapped file count as memory of the process until it is closed
            backend = "mmap" if self._mapped else "pread"
            self._open[shard] = safe_open(self.path / shard, framework="pt", backend=backend)
        return self._open[shard]

    def _join(self, pieces: Mapping[int, _StoredPiece]) -> Tensor:
        """Read an expert's tensor from its pieces."""
        import torch

        from methods.model.stacks import read_entry

        parts = []
        for _, (shard, inner, info, piece) in sorted(pieces.items()):
            if piece.expert is None:
                part = self._file(shard).get_tensor(inner)
            else:
                part = read_entry(self.path / shard, info, piece.expert)
            parts.append(part.T.contiguous() if piece.transposed else part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def weight(self, target: str) -> Tensor:
        """Read the weight of a linear, [out, in]. target: the linear's module name."""
        return self.tensor(f"{target}.weight")


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype in configs and records: "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def read_config(path: Path) -> dict[str, Any]:
    """Read the config.json of a model folder. Raise UserError if the file is missing or not
    valid."""
    try:
        config = read_object(path, "config.json")
        if config is None:
            raise ValueError("there is none")
        for key, kind in (("model_type", str), ("tie_word_embeddings", bool)):
            if key in config and not isinstance(config[key], kind):
                raise ValueError(
                    f"{key} is of type {type(config[key]).__name__}, not {kind.__name__}"
                )
    except (OSError, ValueError) as fault:
        raise UserError(
            f"{path} is not a model folder: cannot read its config.json ({fault})"
        ) from None
    return config


class Writer:
    """Write tensors one by one, in shards, so that a model need not fit in memory twice."""

    def __init__(
        self, path: Path, shard_bytes: int = SHARD_BYTES, dtype: torch.dtype | None = None
    ) -> None:
        """dtype: number format of floating-point tensors in the files, None for the format that
        each has."""
        self.path, self._shard_bytes, self._dtype = path, shard_bytes, dtype
        path.mkdir(parents=True, exist_ok=True)
        self._pending: dict[str, Tensor] = {}
        self._map: dict[str, str] = {}
        self._bytes = self._total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a tensor, now or with the next full shard."""
        if self._dtype and tensor.is_floating_point():
            tensor = tensor.to(self._dtype)
        self._pending[name] = tensor.detach().cpu().contiguous()
        self._bytes += tensor.nbytes
        if self._bytes >= self._shard_bytes:
            self._flush()

    def add_folded(
        self, names: Iterable[str], read: Callable[[str], Tensor], family: Family | None
    ) -> None:
        """Write tensors as transformers stores them. The arguments are those of
        `methods.model.experts.fold`."""
        from methods.model.experts import fold  # imports torch

        for name, tensor in fold(names, read, family):
            self.add(name, tensor)

    def add_stacks(self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> Stacks:
        """Add a shard for tensors [entries, ...] that are written entry by entry."""
        from methods.model.stacks import Stacks  # imports torch

        shard = self._next_shard()
        self._map |= dict.fromkeys(shapes, shard)
        self._total += sum(map(math.prod, shapes.values())) * dtype.itemsize
        return Stacks(self.path / shard, shapes, dtype)

    def _next_shard(self) -> str:
        return f"model-{len(set(self._map.values())) + 1:05d}.safetensors"

    def _flush(self, name: str | None = None) -> None:
        shard = name or self._next_shard()
        save_tensors(self._pending, self.path / shard, {"format": "pt"})
        self._map |= dict.fromkeys(self._pending, shard)
        self._total += self._bytes
        self._pending, self._bytes = {}, 0

    def close(self) -> Path:
        """Write the remaining tensors, and an index if there are several shards. Return the
        folder."""
        if not self._map:
            self._flush(WEIGHTS)
        elif self._pending:
            self._flush()
        if len(set(self._map.values())) > 1 or WEIGHTS not in self._map.values():
            index = {"metadata": {"total_size": self._total}, "weight_map": self._map}
            (self.path / INDEX).write_text(json.dumps(index, indent=1))
        return self.path


def state(model: nn.Module) -> Mapping[str, Tensor]:
    """Return a model's tensors by name. A tied tensor has one name."""
    names: dict[tuple[int, tuple[int, ...]], str] = {}
    tensors = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.is_meta or place not in names:
            tensors[name] = tensor
            names[place] = name
    return tensors


def save(model: nn.Module, path: Path, dtype: torch.dtype | None = None) -> Path:
    """Write the tensors of a model in memory, which `unfold` has seen. The caller adds the config
    and the tokenizer.

    dtype: number format in the files, None for the model's.
    """
    from methods.model.experts import stores_in_out  # imports torch

    assert not any(map(stores_in_out, model.modules())), "unfold the model first"
    writer = Writer(path, SHARD_BYTES, dtype)
    tensors = state(model)
    family = FAMILIES.get(getattr(getattr(model, "config", None), "model_type", ""))
    writer.add_folded(tensors, tensors.__getitem__, family)
    return writer.close()
