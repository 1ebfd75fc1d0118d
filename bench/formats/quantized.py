"""Safetensors folders with quantized weights, by the `quant_method` of their config."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.formats.checkpoint import QUANTIZATION_KEYS, Checkpoint, StoredBytes, stored_plain
from bench.formats.compressed_tensors import CompressedTensorsScheme
from bench.formats.gptq import AwqScheme, GptqScheme
from methods.contract.errors import UserError
from methods.model.families import FAMILIES
from methods.model.folder import Folder, dtype_name

if TYPE_CHECKING:
    from torch import Tensor


Scheme = GptqScheme | AwqScheme | CompressedTensorsScheme
"""A way to store the weight of a linear in parts. `markers` are the parts that only a quantized
weight has."""
SCHEMES: dict[str, type[Scheme]] = {
    "gptq": GptqScheme,
    "awq": AwqScheme,
    "compressed-tensors": CompressedTensorsScheme,
}
VALUES = ("qweight", "weight_packed", "weight", "weight.compressed", "compressed")
"""Parts with the values of a weight. The others count as scales."""


class QuantizedCheckpoint(Checkpoint):
    """A folder with quantized linears of a known method. Each is read as a plain weight in the
    dtype of its scales."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self.scheme = self._scheme()
        self.form = self.scheme.form
        family = FAMILIES.get(folder.config.get("model_type", ""))
        if family and (family.experts or family.transposed):
            raise self._cannot_read(
                f"quantized weights of {folder.config['model_type']} are stored in another way"
            )
        if not self._parts and self.scheme.markers == GptqScheme.markers:
            raise self._cannot_read(
                "its config says that it is quantized, and it has no quantized weight"
            )
        self.is_packed = getattr(self.scheme, "is_packed", False)
        self.is_quantized = any(
            name.endswith(("qweight", "weight_packed", "weight_scale")) for name in folder
        )
        self.activations = getattr(self.scheme, "activations", "")
        self.rounded = tuple(self._parts) if self.activations else ()

    def _scheme(self) -> Scheme:
        about: Any = next(v for k in QUANTIZATION_KEYS if (v := self.folder.config.get(k)))
        kind = about.get("quant_method", "compressed-tensors") if isinstance(about, dict) else None
        if kind == "auto-round" and (layout := str(about.get("packing_format", ""))):
            kind = next((k for k in ("gptq", "awq") if k in layout), kind)
        if not isinstance(kind, str) or kind not in SCHEMES:
            raise self._cannot_read(
                f"its quant_method is {kind!r}, not one of {', '.join(SCHEMES)}"
            )
        try:
            scheme = SCHEMES[kind](about)
        except UserError as fault:
            raise self._cannot_read(str(fault)) from None
        except (AttributeError, TypeError, ValueError) as fault:
            raise self._cannot_read(f"its quantization_config is invalid ({fault})") from None
        return scheme

    @cached_property
    def _parts(self) -> dict[str, dict[str, str]]:
        """Names of the parts of each quantized linear, by module and part."""
        names = set(self.folder)
        modules = {
            n[: -len(m) - 1] for n in names for m in self.scheme.markers if n.endswith(f".{m}")
        }
        # The name X.weight.compressed ends with two markers, and only X is a module.
        modules -= {f"{module}.weight" for module in modules}
        return {
            module: {
                part: f"{module}.{part}"
                for part in self.scheme.parts
                if f"{module}.{part}" in names
            }
            for module in sorted(modules)
        }

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
                out[f"{module}.weight"] = self.scheme.shape(
                    {part: stored[name] for part, name in parts.items()}
                )
            except (KeyError, ValueError) as fault:
                raise self._cannot_read(
                    f"the parts of {module} do not fit together ({fault})"
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
            weight = self.scheme.decode(parts)
            shape = self.scheme.shape({part: tuple(stored.shape) for part, stored in parts.items()})
        except (
            KeyError,
            ValueError,
            TypeError,
            IndexError,
            RuntimeError,
            ArithmeticError,
        ) as fault:
            raise self._cannot_read(
                f"the parts of {module} do not fit together ({fault})"
            ) from None
        is_float = weight.is_floating_point() and weight.itemsize > 1
        if weight.ndim != 2 or tuple(weight.shape) != shape or not is_float:
            found = f"{dtype_name(weight.dtype)} {list(weight.shape)}"
            raise self._cannot_read(
                f"the parts of {module} are a weight of {found}, not a float matrix {list(shape)}"
            )
        return weight

    def stored(self) -> dict[str, StoredBytes]:
        plain = stored_plain(self.folder.shapes(), self.folder.dtypes())
        out = {name: size for name, size in plain.items() if name not in self._inner}
        for module, parts in self._parts.items():
            values = sum(plain[name].values for part, name in parts.items() if part in VALUES)
            out[f"{module}.weight"] = StoredBytes(
                values, sum(plain[n].values for n in parts.values()) - values
            )
        return out

    def _cannot_read(self, why: str) -> UserError:
        return UserError(
            f"{self.path} cannot be read: {why}. Save it in another format, or as plain safetensors"
        )
