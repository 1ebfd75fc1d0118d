"""Find the format in which a row's dequantized weights are stored as integers, for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bench.catalog import choice
from bench.quantizers.formats import FORMATS, Format, format_of
from methods.errors import UserError
from methods.folder import Folder
from methods.quantizing.grids import Integer
from methods.targets import family_of, find_targets


class StoredLinears(NamedTuple):
    """Format of a row's weights, and the linears that have it."""

    form: Format
    groups: Mapping[str, int]
    """Number of weights that share a scale, by name of the linear."""

    @property
    def bits(self) -> int:
        """Bits of the integers; 0 if the format has none, or needs rounded inputs."""
        return self.form.grid.bits if isinstance(self.form.grid, Integer) and not self.form.inputs else 0


def stored_linears(
    source: Folder, quantizer: str, include: tuple[str, ...], exclude: tuple[str, ...]
) -> StoredLinears | None:
    """Return how a quantizer stores the linears of a folder, or None if its format is not of this project."""
    parsed = choice.parse_quantizer(quantizer)
    if parsed is None or (parsed.name.rpartition("-")[0] not in FORMATS and parsed.name not in FORMATS):
        return None
    form, shapes = format_of(parsed.name), source.shapes()
    targets = find_targets(source.config, shapes, include, exclude)
    widths = {target: shapes[f"{target}.weight"][1] for target in targets}
    requested = parsed.config.get("group")
    return StoredLinears(form, {target: form.group(width, requested, quantizer) for target, width in widths.items()})


def require_linears(source: Folder, what: str) -> None:
    """Refuse a family whose weights other programs store in another way: [in, out], or of experts."""
    family = family_of(source.config)
    if family.transposed or family.experts:
        raise UserError(f"a {source.config['model_type']} cannot be exported as {what}: use --format hf")
