"""Safetensors folders with quantized linears, read by the codec that `quant_method` of config.json
names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.catalog import registry
from bench.formats.checkpoint import QUANTIZATION_KEYS, Checkpoint, StoredBytes, stored_plain
from methods.contract.errors import UserError
from methods.model.families import FAMILIES
from methods.model.folder import Folder, dtype_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class FolderCodec:
    """Codec of the quantized linears of safetensors folders. Its name in the catalog is the
    quant_method of these folders."""

    name: ClassVar[str]
    bits: ClassVar[Mapping[str, int]] = {}
    markers: ClassVar[tuple[str, ...]]
    """Parts that only a quantized weight has."""
    parts: ClassVar[tuple[str, ...]]
    """All parts of a weight."""
    values: ClassVar[tuple[str, ...]]
    """Parts with the values of a weight. The others count as scales."""
    scales: ClassVar[str] = "scales"
    """Part with the scales, which a folder of floats alone has not."""
    has_floats: ClassVar[bool] = False
    """True if all linears of a folder may be floats."""

    config: Mapping[str, Any]
    """quantization_config of a model."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise UserError for a config that is not read here."""

    @property
    def form(self) -> str:
        """The format in words."""
        raise NotImplementedError

    @property
    def is_packed(self) -> bool:
        """True if the values leave pruned weights out."""
        return False

    @property
    def activations(self) -> str:
        """Rounding of the inputs: a name in INPUT_FORMATS, or ""."""
        return ""

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Return the shape [out, in] of a weight from the shapes of its parts."""
        raise NotImplementedError

    def dtype(self, parts: Mapping[str, Tensor]) -> torch.dtype:
        """Return the number format to which loaders round a weight."""
        return parts[self.scales].dtype

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the weight [out, in], float32."""
        raise NotImplementedError


def find_codec(folder: Folder) -> FolderCodec:
    """Return the codec of a folder with quantized weights. Raise UserError for an unknown
    format."""
    about: Any = next(v for k in QUANTIZATION_KEYS if (v := folder.config.get(k)))
    kind = about.get("quant_method", "compressed-tensors") if isinstance(about, dict) else None
    if kind == "auto-round":
        # It names the format of another tool, as in auto_round:auto_gptq.
        layout = str(about.get("packing_format"))
        kind = next((name for name in registry.SECTIONS["codecs"] if name in layout), kind)
    found: Any = None
    if isinstance(kind, str) and kind in registry.SECTIONS["codecs"]:
        found = registry.load(registry.lookup("codecs", kind))
    if found is None or not issubclass(found, FolderCodec):
        raise cannot_read(folder.path, f"no installed part reads its quant_method {kind!r}")
    try:
        codec: FolderCodec = found(about)
    except UserError as fault:
        raise cannot_read(folder.path, str(fault)) from None
    except (AttributeError, TypeError, ValueError) as fault:
        raise cannot_read(folder.path, f"its quantization_config is invalid ({fault})") from None
    return codec


def cannot_read(path: Path, why: str) -> UserError:
    """Return the error for a folder with quantized weights."""
    return UserError(
        f"{path} cannot be read: {why}. Save it in another format, or as plain safetensors"
    )


class QuantizedCheckpoint(Checkpoint):
    """A folder with quantized linears. Each is read as a plain weight in the number format to which
    loaders round it."""

    def __init__(self, folder: Folder, codec: FolderCodec) -> None:
        super().__init__(folder)
        self.codec = codec
        self.form = codec.form
        config = folder.config
        family = FAMILIES.get(config.get("model_type", ""))
        if family and (family.experts or family.transposed):
            raise cannot_read(
                self.path, f"quantized weights of {config['model_type']} are stored in another way"
            )
        if not self._parts and not codec.has_floats:
            raise cannot_read(
                self.path, "its config says that it is quantized, and it has no quantized weight"
            )
        self.is_packed = codec.is_packed
        self.is_quantized = any(codec.scales in parts for parts in self._parts.values())
        self.activations = codec.activations
        self.rounded = tuple(self._parts) if self.activations else ()

    @cached_property
    def _parts(self) -> dict[str, dict[str, str]]:
        """Names of the parts of each quantized linear, by module and part."""
        names = set(self.folder)
        modules = {
            n[: -len(m) - 1] for n in names for m in self.codec.markers if n.endswith(f".{m}")
        }
        # The name X.weight.compressed ends with two markers, and only X is a module.
        modules -= {f"{module}.weight" for module in modules}
        found: dict[str, dict[str, str]] = {module: {} for module in sorted(modules)}
        for module, parts in found.items():
            for part in self.codec.parts:
                name = f"{module}.{part}"
                if name in names:
                    parts[part] = name
        return found

    @cached_property
    def _inner(self) -> set[str]:
        """Names of all parts."""
        return {name for parts in self._parts.values() for name in parts.values()}

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self.folder if name not in self._inner)
        yield from (f"{module}.weight" for module in self._parts)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        stored = self.folder.shapes()
        out = {name: shape for name, shape in stored.items() if name not in self._inner}
        for module, parts in self._parts.items():
            try:
                out[f"{module}.weight"] = self.codec.shape(
                    {part: stored[name] for part, name in parts.items()}
                )
            except (KeyError, ValueError) as fault:
                raise cannot_read(
                    self.path, f"the parts of {module} do not fit together ({fault})"
                ) from None
        return out

    def dtypes(self) -> dict[str, str]:
        return {
            name: dtype for name, dtype in self.folder.dtypes().items() if name not in self._inner
        } | {f"{module}.weight": "F32" for module in self._parts}

    def tensor(self, name: str) -> Tensor:
        module = name.removesuffix(".weight")
        if module not in self._parts:
            return self.folder.tensor(name)
        parts = {part: self.folder.tensor(inner) for part, inner in self._parts[module].items()}
        try:
            kind = self.codec.dtype(parts)
            weight = self.codec.decode(parts).to(kind)
            shape = self.codec.shape({part: tuple(stored.shape) for part, stored in parts.items()})
        except (
            KeyError,
            ValueError,
            TypeError,
            IndexError,
            RuntimeError,
            ArithmeticError,
        ) as fault:
            raise cannot_read(
                self.path, f"the parts of {module} do not fit together ({fault})"
            ) from None
        is_float = kind.is_floating_point and kind.itemsize > 1
        if weight.ndim != 2 or tuple(weight.shape) != shape or not is_float:
            found = f"{dtype_name(weight.dtype)} {list(weight.shape)}"
            raise cannot_read(
                self.path,
                f"the parts of {module} are a weight of {found}, not a float matrix {list(shape)}",
            )
        return weight

    def stored(self) -> dict[str, StoredBytes]:
        plain = stored_plain(self.folder.shapes(), self.folder.dtypes())
        out = {name: size for name, size in plain.items() if name not in self._inner}
        for module, parts in self._parts.items():
            values = sum(
                plain[name].values for part, name in parts.items() if part in self.codec.values
            )
            out[f"{module}.weight"] = StoredBytes(
                values, sum(plain[n].values for n in parts.values()) - values
            )
        return out


def even_groups(width: int, count: int, size: Any) -> Tensor:
    """Return the group of each input, int64 [width], or raise ValueError if they are not `count`
    groups.

    size: inputs in a group; all inputs share a group if it is no positive whole number.
    """
    import torch

    inputs = size if isinstance(size, int) and size > 0 else width
    groups = torch.arange(width) // inputs
    if int(groups[-1]) + 1 != count:
        raise ValueError(f"{width} inputs have {int(groups[-1]) + 1} groups of {size}, not {count}")
    return groups


def describe_group(size: Any) -> str:
    """Return the size of a group in words."""
    return f"groups of {size}" if isinstance(size, int) and size > 0 else "one group a row"
