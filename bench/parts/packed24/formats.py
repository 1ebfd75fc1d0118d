"""packed24 in the catalog of exports and readers. Needs no torch, because a plan asks readers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from bench.formats.contract import Checkpoint, ModelFormat, ModelSource, Options, Reader
from bench.formats.shipping import NATIVE, Form
from bench.parts.packed24 import MANIFEST
from methods.model.folder import Folder
from methods.model.safe_files import find_file


class Packed24Format(ModelFormat):
    """Kept values and bitmasks."""

    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "values": ("int8", "int4"),
        "exclude": (),
        "windows": (),
    }
    forms: ClassVar[tuple[Form, ...]] = (
        Form((NATIVE,), "", keeps=True, pattern="2:4", packs=True),
    )

    def check(self, options: Options) -> None:
        from bench.parts.packed24.windows24 import group_of

        if options.windows:
            group_of(options.windows)

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.parts.packed24 import writer

        said = writer.write(source, out, options)
        source.write_companions(out)
        return said


class Packed24Reader(Reader):
    """A folder of `bench export --format packed24`."""

    def owns(self, path: Path) -> bool:
        return find_file(path, MANIFEST) is not None

    def open(self, path: Path, original: Folder | None) -> Checkpoint:
        from bench.parts.packed24.folder24 import Folder24

        return Folder24(path)
