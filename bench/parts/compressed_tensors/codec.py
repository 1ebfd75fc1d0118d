"""Codec of compressed-tensors, whose formats llm-compressor writes and vLLM reads."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.formats.quantized import FolderCodec, describe_group, even_groups
from bench.formats.stored import unpack_rows
from methods.contract.errors import UserError
from methods.workshop.quantizing.grids import e2m1_points

T = TypeVar("T")

DENSE_FORMATS = (
    "dense", "pack-quantized", "int-quantized", "naive-quantized", "float-quantized",
    "nvfp4-pack-quantized", "mxfp4-pack-quantized",
)  # fmt: skip
SPARSE_FORMATS = ("dense", "sparse-24-bitmask", "sparse-bitmask")
MASKED = "compressed"
MASK_PARTS = (MASKED, "bitmask", "shape", "row_offsets")
"""Parts of a weight without its zeros. Some versions write `weight.` before each, others write only
these names."""


@dataclass(frozen=True)
class CompressedTensorsCodec(FolderCodec):
    """w = (q - z) s for each group of a row. The parts of a weight say how it is packed.

    - `weight_packed` int32: 32 // bits values of a row in a word, each plus 2^(bits - 1). uint8:
      two e2m1 floats.
    - `weight` int8 or float8.
    - `weight_scale` [out, groups], and with e2m1 `weight_global_scale`, by which it is divided.
    - `weight_zero_point` [out, groups], packed along the outputs beside a packed weight.
    - `weight_g_idx` int32 [in]: group of each input, or -1.
    - `compressed` and `bitmask`: kept values, and a bit for each weight.
    """

    name = "compressed-tensors"
    markers = ("weight_packed", "weight_scale", f"weight.{MASKED}", MASKED)
    parts = (
        "weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_shape",
        "weight_g_idx", "weight_global_scale", *(f"weight.{part}" for part in MASK_PARTS),
        *MASK_PARTS,
    )  # fmt: skip
    values = ("weight_packed", "weight", f"weight.{MASKED}", MASKED)
    scales = "weight_scale"
    has_floats = True

    @classmethod
    def of(cls, linear: nn.Module) -> tuple[CompressedTensorsCodec, dict[str, Tensor]]:
        """Return the codec and the parts of a linear that llm-compressor quantized, as its files
        have them."""
        compressors: Any = importlib.import_module("compressed_tensors.compressors.base")
        scheme: Any = linear.quantization_scheme
        form = compressors.infer_module_format(type(linear), scheme).value
        compressor = compressors.BaseCompressor.get_value_from_registry(form)
        state = {name: tensor.detach() for name, tensor in linear.state_dict().items()}
        about = scheme.model_dump(mode="json", exclude={"targets"})
        codec = cls({"format": form, "config_groups": {"group_0": about}})
        return codec, compressor.compress(state, scheme)

    def check(self) -> None:
        """Raise UserError for a format, a rotation or a rounding that is not read here."""
        for found, known in ((self._forms, DENSE_FORMATS), ({self._sparse_form}, SPARSE_FORMATS)):
            unknown = sorted(map(str, found - set(known)))
            if unknown:
                raise UserError(
                    f"the compressed-tensors format {unknown[0]!r} cannot be read: use "
                    f"{', '.join(known)}"
                )
        for key in ("transform_config", "kv_cache_scheme"):
            if self.config.get(key):
                raise UserError(
                    f"compressed-tensors with {key} cannot be read: it changes how the model runs"
                )
        weights = [self._weights_of(group) | {"group_size": None} for group in self._groups]
        if any(each != weights[0] for each in weights):
            raise UserError(
                "compressed-tensors with several kinds of weights cannot be read: let them differ "
                "in group_size alone"
            )
        if type(self.width) is not int or not 1 < self.width <= 8:
            raise UserError(
                f"compressed-tensors weights of {self.width!r} bits cannot be read: use 2 to 8"
            )
        if any(group.get("output_activations") for group in self._groups):
            raise UserError(
                "compressed-tensors with output_activations cannot be read: use weights, or "
                "weights and inputs"
            )
        roundings = {_activations(group.get("input_activations")) for group in self._groups}
        if len(roundings) > 1:
            raise UserError(
                "compressed-tensors with several input_activations cannot be read: use one config "
                "group"
            )

    @property
    def _groups(self) -> list[dict[str, Any]]:
        """The config groups: linears of one kind each."""
        groups = (self.config.get("config_groups") or {}).values()
        return [group for group in groups if isinstance(group, dict)]

    @staticmethod
    def _weights_of(group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of the weights of a config group."""
        return group.get("weights") or {}

    @cached_property
    def _weights(self) -> dict[str, Any]:
        """Settings of the weights, but for the size of groups."""
        return self._weights_of(self._groups[0]) if self._groups else {}

    @property
    def _forms(self) -> set[Any]:
        form = self.config.get("format", "dense")
        return {group.get("format") or form for group in self._groups} or {form}

    @property
    def _sparse_form(self) -> Any:
        sparse = self.config.get("sparsity_config") or {}
        return sparse.get("format", "dense") if isinstance(sparse, dict) else sparse

    @cached_property
    def sizes(self) -> list[Any]:
        """Number of inputs that share a scale, of each kind of linear."""
        sizes = [self._weights_of(group).get("group_size") for group in self._groups]
        return list(dict.fromkeys(sizes)) or [None]

    @cached_property
    def width(self) -> int:
        """Bits of a value."""
        width: int = self._weights.get("num_bits", 8)
        return width

    @property
    def form(self) -> str:
        names = sorted({*map(str, self._forms), str(self._sparse_form)} - {"dense"})
        form = f"compressed-tensors {'/'.join(names) or 'dense'}"
        if not self._weights:
            return form
        sizes = " or ".join(map(describe_group, self.sizes))
        return f"{form}, {self.width} bits ({self._weights.get('type', 'int')}), {sizes}"

    @property
    def is_packed(self) -> bool:
        return bool(self._sparse_form != "dense")

    @property
    def activations(self) -> str:
        return _activations(self._groups[0].get("input_activations")) if self._groups else ""

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        shapes = _short(shapes)
        if "weight" in shapes:
            return shapes["weight"]
        if MASKED in shapes:
            rows, width = shapes["bitmask"]
            return rows, 8 * width
        rows, words = shapes["weight_packed"]
        # A byte has two floats of 4 bits, which are the only parts without a shape.
        if "weight_shape" not in shapes:
            return rows, words * 2
        return rows, words * 32 // self.width

    def dtype(self, parts: Mapping[str, Tensor]) -> torch.dtype:
        parts = _short(parts)
        scale = parts.get("weight_scale")
        if scale is None:
            return self._values(parts).dtype
        is_wide = scale.is_floating_point() and scale.itemsize > 1
        return scale.dtype if is_wide else torch.bfloat16

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the weight [out, in], float32, rounded to `dtype` as loaders do."""
        dtype, parts = self.dtype(parts), _short(parts)
        q, scale = self._values(parts), parts.get("weight_scale")
        if scale is None:
            return q.float()
        if "weight_packed" not in parts and q.is_floating_point() and q.itemsize > 1:
            raise ValueError("a weight that is stored dense has a scale: save it compressed")
        if scale.dtype == torch.uint8:  # the exponent of a power of two
            scale = torch.exp2(scale.float() - 127)
        wide = scale.float()
        shared = parts.get("weight_global_scale")
        if shared is not None:
            wide = wide / shared.float()
        values = q.float()
        zeros = parts.get("weight_zero_point")
        if zeros is not None:
            if zeros.dtype == torch.int32:  # packed along the outputs
                zeros = unpack_rows(zeros.T, self.width).T[: len(wide)] - 2 ** (self.width - 1)
            values = values - self._spread(zeros, values, parts).float()
        return (values * self._spread(wide, values, parts)).to(dtype).float()

    def _values(self, parts: Mapping[str, Tensor]) -> Tensor:
        if "weight" in parts:
            return parts["weight"]
        if MASKED in parts:
            rows, width = (int(n) for n in parts["shape"].flatten().tolist())
            mask = parts["bitmask"]
            if (rows, -(-width // 8)) != tuple(mask.shape):
                raise ValueError(f"a mask {list(mask.shape)} for {rows} x {width} weights")
            keep, values = unpack_rows(mask, 1)[:, :width].bool(), parts[MASKED]
            if values.numel() != int(keep.sum()):
                raise ValueError(f"a mask of {int(keep.sum())} weights for {values.numel()}")
            # No float8 is scattered.
            raw = values.flatten().view(torch.uint8) if values.itemsize == 1 else values.flatten()
            return (
                torch.zeros(rows, width, dtype=raw.dtype)
                .masked_scatter_(keep, raw)
                .view(values.dtype)
            )
        packed = parts["weight_packed"]
        if packed.dtype == torch.uint8:
            return e2m1_points(unpack_rows(packed, 4))
        _, width = (int(n) for n in parts["weight_shape"].tolist())
        integers: Tensor = unpack_rows(packed, self.width)[:, :width] - 2 ** (self.width - 1)
        return integers

    def _spread(self, scale: Tensor, values: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the scale of each value, broadcastable to [out, in]."""
        rows, width = values.shape
        if scale.numel() == 1:
            return scale.view(1, 1)
        block = self._weights.get("block_structure")
        if isinstance(block, list) and len(block) == 2:
            down, across = torch.arange(rows) // int(block[0]), torch.arange(width) // int(block[1])
            return scale[down][:, across]
        if scale.ndim > 1 and len(scale) != rows:
            raise ValueError(f"scales {list(scale.shape)} for {rows} rows")
        scale = scale.view(rows, -1)
        if scale.shape[1] == 1:
            return scale
        order = parts.get("weight_g_idx")
        groups = order.long() if order is not None and int(order.min()) >= 0 else None
        if groups is None:
            count = scale.shape[1]
            sizes = [
                n for n in self.sizes if isinstance(n, int) and n > 0 and -(-width // n) == count
            ]
            if len(sizes) > 1:
                raise ValueError(
                    f"{count} groups of {width} inputs may be of {sizes[0]} or of {sizes[1]}"
                )
            size = sizes[0] if sizes else self.sizes[0]
            groups = even_groups(width, count, size)
        return scale[:, groups]


def _short(parts: Mapping[str, T]) -> dict[str, T]:
    """Return the parts with `weight.` removed from their names."""
    return {name.removeprefix("weight."): part for name, part in parts.items()}


def _activations(settings: Any) -> str:
    """Return the rounding of a linear's inputs by its name in INPUT_FORMATS, or "". Refuse any
    other rounding."""
    if not settings:
        return ""
    bits, type_, strategy = (settings.get(key) for key in ("num_bits", "type", "strategy"))
    dynamic, symmetric = settings.get("dynamic") is True, settings.get("symmetric") is not False
    if (
        (bits, strategy) != (8, "token")
        or type_ not in ("int", "float")
        or not dynamic
        or not symmetric
    ):
        when = "dynamic" if dynamic else "static"
        raise UserError(
            f"inputs rounded to {bits} bits ({type_}, {strategy}, {when}) cannot be computed here: "
            "use dynamic, symmetric rounding per token to 8 bits, or quantize the weights only"
        )
    return {"int": "wide_int8", "float": "float8"}[type_]
