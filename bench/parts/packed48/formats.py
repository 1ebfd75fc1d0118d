"""packed48 in the catalog of exports."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from bench.formats.checkpoint import QUANT_METHOD
from bench.formats.contract import ModelFormat, ModelSource, Options


class Packed48Format(ModelFormat):
    """Kept pairs of pairs:4:8, and their 2-bit indices. No engine runs these files."""

    options: ClassVar[dict[str, tuple[str, ...]]] = {"exclude": ()}

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.parts.packed48 import writer

        said = writer.write(source, out, options)
        source.write_companions(out, {"quantization_config": {"quant_method": QUANT_METHOD}})
        return said
