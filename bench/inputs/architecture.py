"""Check a model's config against its tensors before one is read, but for a stored head that is
tied. Only that needs torch.

transformers builds a model of any size that a config names, and fills missing tensors with random
numbers. So each family lists its tensors, with shapes as arithmetic on values of the config.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bench.inputs.model_config import MAX_SIZE, REDIRECTS, ModelConfig
from methods.contract.errors import UserError
from methods.model import families
from methods.model.families import Family, Size, compute
from methods.model.folder import TIED, Folder

Shape = tuple[int, ...]

MAX_EXPERTS = 2**12
"""Largest number of experts in a block, because the tensors of each are listed."""
DTYPES = ("F16", "BF16", "F32", "F64")


class Layout(NamedTuple):
    """Tensors of a model and their shapes."""

    blocks: int
    outer: dict[str, Shape]
    """Shapes of tensors outside blocks, by full name."""
    block: dict[str, Shape]
    """Shapes of tensors of a block, by name inside the block."""

    def tensors(self, prefix: str) -> Iterator[tuple[str, Shape]]:
        """Yield every tensor with its shape. prefix: path of the blocks."""
        yield from self.outer.items()
        for i in range(self.blocks):
            for name, shape in self.block.items():
                yield f"{prefix}.{i}.{name}", shape


class ModelTensors(Protocol):
    """The config and the tensors of a model, in a folder or in another format."""

    path: Path

    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def is_tied(self) -> bool: ...
    def shapes(self) -> dict[str, tuple[int, ...]]: ...
    def dtypes(self) -> dict[str, str]: ...


def check(folder: ModelTensors, *, any_dtype: bool = False) -> None:
    """Refuse a model of a known family whose layers, tensors, shapes or dtypes are not those of its
    config. any_dtype: allow dtypes that cannot be compressed, such as float8."""
    config = ModelConfig(folder.config, str(folder.path))
    kind = folder.config.get("model_type")
    if kind not in families.FAMILIES or folder.config.get("quantization_config") is not None:
        return  # the search for targets refuses it
    family = families.FAMILIES[kind]
    layout = layout_of(family, config)
    for name in REDIRECTS:
        if name != "auto_map" or not family.native:
            config.require_absent(name)
    config.check_others()
    shapes, dtypes = folder.shapes(), folder.dtypes()
    blocks = 1 + max((i for i in map(family.block_of, shapes) if i is not None), default=-1)
    if blocks != layout.blocks:
        raise UserError(
            f"config.json in {folder.path} says {layout.blocks} layers, and its weights have "
            f"{blocks}: download or write it again"
        )
    head = next((n for n in TIED if n in shapes), TIED[0])
    if not folder.is_tied:
        layout.outer[head] = next(iter(layout.outer.values()))
    tensors = dict(layout.tensors(family.blocks))
    extra = sorted(set(shapes).difference(tensors, TIED))
    if extra:
        raise UserError(
            f"{folder.path} has the tensor {extra[0]}, which a {kind} model does not have: delete "
            "it, or write the model again"
        )
    for name, shape in tensors.items():
        if name not in shapes:
            raise UserError(f"{folder.path} lacks the tensor {name}: download or write it again")
        if shapes[name] != shape:
            raise UserError(
                f"{name} in {folder.path} is {list(shapes[name])}, and by its config.json "
                f"{list(shape)}: download or write it again"
            )
        if dtypes[name] not in DTYPES and not any_dtype:
            raise UserError(
                f"{name} in {folder.path} is {dtypes[name]}, not one of {', '.join(DTYPES)}: use "
                "unquantized weights"
            )
    if isinstance(folder, Folder):
        check_head(folder)


def check_head(folder: Folder) -> None:
    """Require that a head equals the embedding to which it is tied. It is left out here, and
    transformers loads it."""
    family = families.FAMILIES.get(folder.config.get("model_type", ""))
    if not family or not folder.is_tied:
        return
    embedding = next(iter(family.outer))
    if embedding not in folder:  # packed: formats compare it
        return
    for name, (shard, info) in folder.tied_heads.items():
        from safetensors import safe_open

        fits = info.dtype in DTYPES and info.shape == folder.shapes()[embedding]
        with safe_open(folder.path / shard, framework="pt") as opened:
            equal = fits and bool((opened.get_tensor(name) == folder.tensor(embedding)).all())
        if not equal:
            raise UserError(
                f"config.json in {folder.path} ties {name} to the embedding, and their values "
                "differ: set tie_word_embeddings to false, or write the model again"
            )


def count_experts(family: Family, config: ModelConfig) -> int:
    """Return the number of experts in a block by the config; 0 without experts."""
    return _Values(family, config).size(family.experts.count) if family.experts else 0


def layout_of(family: Family, config: ModelConfig) -> Layout:
    """Return the tensors of a model of a family by its config, or raise UserError if a value is
    missing or invalid."""
    values = _Values(family, config)
    for fraction in family.whole:
        values.require_whole(fraction)
    outer = {name: values.shape(shape) for name, shape in family.outer.items()}
    block = {name: values.shape(shape) for name, shape in family.block.items()}
    for condition, tensors in family.when.items():
        if values.size(condition):
            for name, shape in tensors.items():
                place = outer if name.startswith(family.base) else block
                place[name] = values.shape(shape)
    experts = family.experts
    if experts:
        shapes = {linear: values.shape(shape) for linear, shape in experts.linears.items()}
        for name in experts.names(values.size(experts.count)):
            block[f"{name}.weight"] = shapes[name.rsplit(".", 1)[1]]
            if experts.biased:
                block[f"{name}.bias"] = block[f"{name}.weight"][:1]
    return Layout(values.size(family.layers), outer, block)


class _Values:
    """Values of the expressions in a family's entry for one config."""

    def __init__(self, family: Family, config: ModelConfig) -> None:
        self._family, self._config = family, config

    def shape(self, shape: families.Shape) -> Shape:
        parts = (s if isinstance(s, tuple) else (s,) for s in shape)
        return tuple(sum(map(self.size, sizes)) for sizes in parts)

    def size(self, size: Size) -> int:
        return size if isinstance(size, int) else int(compute(size, self._value))

    def require_whole(self, fraction: str) -> None:
        """Check that a fraction of two values is a whole number, for example "num_attention_heads /
        num_key_value_heads"."""
        whole, part = fraction.split(" / ")
        if self.size(whole) % self.size(part):
            raise self._config.invalid(f"{whole} is not a multiple of {part}")

    def _value(self, name: str) -> int:
        if name in self._family.flags:
            return self._config.flag(name, self._family.flags[name])
        default = self._family.defaults.get(name)
        if isinstance(default, str):
            default = None if self._config.has(name) else max(1, self.size(default))
        is_count = self._family.experts and name == self._family.experts.count
        most = MAX_EXPERTS if is_count else MAX_SIZE
        return self._config.size(name, default=default, most=most)
