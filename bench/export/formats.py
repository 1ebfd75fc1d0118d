"""Format `packed24` of `bench export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from bench.formats.contract import ModelFormat, ModelSource, Options


class Packed24(ModelFormat):
    """Kept values and bitmasks."""

    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "values": ("int8", "int4"),
        "exclude": (),
        "windows": (),
    }

    def check(self, options: Options) -> None:
        from bench.kernels.windows24 import group_of

        if options.windows:
            group_of(options.windows)

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.export import packed_folder

        said = packed_folder.write(source, out, options)
        source.write_companions(out)
        return said
