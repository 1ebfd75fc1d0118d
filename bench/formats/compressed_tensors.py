"""Weights in the formats of compressed-tensors, which llm-compressor writes and vLLM reads."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from bench.formats.gptq import describe_group, even_groups
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")

FORMATS = (
    "dense", "pack-quantized", "int-quantized", "naive-quantized", "float-quantized",
    "nvfp4-pack-quantized", "mxfp4-pack-quantized",
)  # fmt: skip
SPARSE_FORMATS = ("dense", "sparse-24-bitmask", "sparse-bitmask")
MASKED = "compressed"
MASK_PARTS = (MASKED, "bitmask", "shape", "row_offsets")
"""Parts of a weight without its zeros. Some versions write `weight.` before each, others write only
these names."""


class CompressedTensorsScheme:
    """w = (q - z) s for each group of a row. The parts of a weight say how it is packed.

    - `weight_packed` int32: 32 // bits values of a row in a word, each plus 2^(bits - 1). uint8:
      two e2m1 floats.
    - `weight` int8 or float8.
    - `weight_scale` [out, groups], and with e2m1 `weight_global_scale`, by which it is divided.
    - `weight_zero_point` [out, groups], packed along the outputs beside a packed weight.
    - `weight_g_idx` int32 [in]: group of each input, or -1.
    - `compressed` and `bitmask`: kept values, and a bit for each weight.
    """

    markers = ("weight_packed", "weight_scale", f"weight.{MASKED}", MASKED)
    parts = (
        "weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_shape",
        "weight_g_idx", "weight_global_scale", *(f"weight.{part}" for part in MASK_PARTS),
        *MASK_PARTS,
    )  # fmt: skip

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: quantization_config. Raise UserError for a format, a rotation or a rounding that
        is not read here."""
        form, sparse = config.get("format", "dense"), config.get("sparsity_config") or {}
        groups = list((config.get("config_groups") or {}).values())
        sparse_form = sparse.get("format", "dense") if isinstance(sparse, dict) else sparse
        forms = {g.get("format") or form for g in groups if isinstance(g, dict)} or {form}
        for found, known in ((forms, FORMATS), ({sparse_form}, SPARSE_FORMATS)):
            if unknown := sorted(map(str, found - set(known))):
                raise UserError(
                    f"the compressed-tensors format {unknown[0]!r} cannot be read: use "
                    f"{', '.join(known)}"
                )
        for key in ("transform_config", "kv_cache_scheme"):
            if config.get(key):
                raise UserError(
                    f"compressed-tensors with {key} cannot be read: it changes how the model runs"
                )
        settings = [g for g in groups if isinstance(g, dict)]
        kinds = [g.get("weights") or {} for g in settings] or [{}]
        weights = kinds[0]
        self.groups: list[Any] = []
        for kind in kinds:
            if (size := kind.get("group_size")) not in self.groups:
                self.groups.append(size)
        if any(w | {"group_size": None} != weights | {"group_size": None} for w in kinds):
            raise UserError(
                "compressed-tensors with several kinds of weights cannot be read: let them differ "
                "in group_size alone"
            )
        self.bits = weights.get("num_bits", 8)
        self.block = weights.get("block_structure")
        if type(self.bits) is not int or not 1 < self.bits <= 8:
            raise UserError(
                f"compressed-tensors weights of {self.bits!r} bits cannot be read: use 2 to 8"
            )
        if any(g.get("output_activations") for g in settings):
            raise UserError(
                "compressed-tensors with output_activations cannot be read: use weights, or "
                "weights and inputs"
            )
        roundings = {_activations(g.get("input_activations")) for g in settings} or {""}
        if len(roundings) > 1:
            raise UserError(
                "compressed-tensors with several input_activations cannot be read: use one config "
                "group"
            )
        (self.activations,) = roundings
        sizes = " or ".join(map(describe_group, self.groups))
        kind = f", {self.bits} bits ({weights.get('type', 'int')}), {sizes}" if weights else ""
        named = sorted({*map(str, forms), str(sparse_form)} - {"dense"})
        self.form = f"compressed-tensors {'/'.join(named) or 'dense'}{kind}"
        self.is_packed = sparse_form != "dense"

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Return the shape [out, in] of a weight, from the shapes of its parts."""
        shapes = _short(shapes)
        if "weight" in shapes:
            return shapes["weight"]
        if MASKED in shapes:
            rows, width = shapes["bitmask"]
            return rows, 8 * width
        rows, words = shapes["weight_packed"]
        # A byte has two floats of 4 bits, which are the only parts without a shape.
        return rows, words * 32 // self.bits if "weight_shape" in shapes else words * 2

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return a weight [out, in] in the dtype of its scales, or of its values if it has no
        scales."""
        import torch

        from bench.formats.stored import unpack_rows

        parts = _short(parts)
        q, scale = self._values(parts), parts.get("weight_scale")
        if scale is None:
            return q
        if "weight_packed" not in parts and q.is_floating_point() and q.itemsize > 1:
            raise ValueError("a weight that is stored dense has a scale: save it compressed")
        dtype = scale.dtype if scale.is_floating_point() and scale.itemsize > 1 else torch.bfloat16
        if scale.dtype == torch.uint8:  # the exponent of a power of two
            scale = torch.exp2(scale.float() - 127)
        wide = scale.float()
        if (shared := parts.get("weight_global_scale")) is not None:
            wide = wide / shared.float()
        values = q.float()
        if (zeros := parts.get("weight_zero_point")) is not None:
            if zeros.dtype == torch.int32:  # packed along the outputs
                zeros = unpack_rows(zeros.T, self.bits).T[: wide.shape[0]] - 2 ** (self.bits - 1)
            values = values - self._spread(zeros, values, parts).float()
        return (values * self._spread(wide, values, parts)).to(dtype)

    def _values(self, parts: Mapping[str, Tensor]) -> Tensor:
        import torch

        from bench.formats.stored import unpack_rows
        from methods.workshop.quantizing.grids import e2m1_points

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
        integers: Tensor = unpack_rows(packed, self.bits)[:, :width] - 2 ** (self.bits - 1)
        return integers

    def _spread(self, scale: Tensor, values: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the scale of each value, broadcastable to [out, in]."""
        import torch

        rows, width = values.shape
        if scale.numel() == 1:
            return scale.view(1, 1)
        if isinstance(self.block, list) and len(self.block) == 2:
            down, across = (
                torch.arange(n) // int(b) for n, b in zip((rows, width), self.block, strict=True)
            )
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
                n for n in self.groups if isinstance(n, int) and n > 0 and -(-width // n) == count
            ]
            if len(sizes) > 1:
                raise ValueError(
                    f"{count} groups of {width} inputs may be of {sizes[0]} or of {sizes[1]}"
                )
            groups = even_groups(width, count, sizes[0] if sizes else self.groups[0])
        return scale[:, groups]


@dataclass(frozen=True)
class CompressedTensorsCodec:
    """The tensors that compressed-tensors writes for a linear, by their names in it."""

    name: ClassVar[str] = "compressed-tensors"
    bits: ClassVar[Mapping[str, int]] = {}
    config: Mapping[str, Any]
    """quantization_config of a model with this linear."""

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        return CompressedTensorsScheme(self.config).decode(parts).float()


def compress(linear: nn.Module) -> tuple[CompressedTensorsCodec, dict[str, Tensor]]:
    """Return the codec and the tensors of a linear that llm-compressor quantized, as its files have
    them."""
    compressors: Any = importlib.import_module("compressed_tensors.compressors.base")
    scheme: Any = linear.quantization_scheme
    form = compressors.infer_module_format(type(linear), scheme).value
    compressor = compressors.BaseCompressor.get_value_from_registry(form)
    state = {name: tensor.detach() for name, tensor in linear.state_dict().items()}
    about = scheme.model_dump(mode="json", exclude={"targets"})
    config = {"format": form, "config_groups": {"group_0": about}}
    return CompressedTensorsCodec(config), compressor.compress(state, scheme)


def _short(parts: Mapping[str, T]) -> dict[str, T]:
    """Return the parts by names without `weight.`."""
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
        raise UserError(
            f"inputs rounded to {bits} bits ({type_}, {strategy}, "
            f"{'dynamic' if dynamic else 'static'}) cannot be computed here: use dynamic, "
            "symmetric rounding per token to 8 bits, or quantize the weights only"
        )
    return {"int": "wide_int8", "float": "float8"}[type_]
