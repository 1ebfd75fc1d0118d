"""The stored weights of a model folder, for the formats of other programs."""

from __future__ import annotations

from collections.abc import Mapping

from bench.formats.stored import StoredFolder, describe
from methods.contract.errors import UserError
from methods.model.folder import Folder
from methods.model.targets import family_of
from methods.workshop.quantizing.grid_codec import GridCodec
from methods.workshop.quantizing.integers import integer_bits


def require_linears(source: Folder, what: str) -> None:
    """Refuse a family whose weights other programs store in another way: [in, out], or of
    experts."""
    family = family_of(source.config)
    if family.transposed or family.experts:
        raise UserError(
            f"a {source.config['model_type']} cannot be exported as {what}: use --format hf"
        )


def grids_of(stored: StoredFolder, format_: str) -> Mapping[str, GridCodec]:
    """Return the grid codec of each stored linear. Raise UserError if there is none, or one is of
    another kind."""
    codecs = {target: stored.codec(target) for target in stored.targets}
    if not codecs:
        raise UserError(
            f"{stored.path.parent} has no stored weights, of which {format_} is made: name the "
            "record of a quantized row, or a folder of bench prune --quant"
        )
    grids = {target: codec for target, codec in codecs.items() if isinstance(codec, GridCodec)}
    other = sorted(codecs.keys() - grids.keys())
    if other:
        name = codecs[other[0]].name
        raise UserError(
            f"{other[0]} is stored as {name}, which {format_} has not: use --format stored"
        )
    return grids


def describe_outer(stored: StoredFolder, left_by: str = "") -> str:
    """Return a sentence about the quantized embedding and head; "" if they are not quantized.

    left_by: format that has no form for them, so that it stores their values as floats.
    """
    if not stored.outer:
        return ""
    names = " and ".join(sorted(stored.outer))
    if left_by:
        return f"; {names} stay floats, because {left_by} quantizes linears of blocks alone"
    forms = sorted({describe(stored.codec(name)) for name in stored.outer})
    return f"; {names} as {', '.join(forms)}"


def common_bits(stored: StoredFolder) -> int:
    """Return the bits of the integers that all stored linears are; 0 without one such number."""
    codecs = [stored.codec(target) for target in stored.targets]
    bits = {integer_bits(codec) for codec in codecs}
    return bits.pop() if len(bits) == 1 else 0
