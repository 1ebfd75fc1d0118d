"""A calibration text: the modules of Python's standard library on this machine."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bench.inputs.corpora import TextSource


@dataclass(frozen=True)
class Library(TextSource):
    """Each module is a document. The digest names the text in records."""

    @property
    def uses(self):
        return ("calibration",)

    def digest(self, data_dir):
        whole = hashlib.sha256()
        for text in self.documents("calibration", data_dir, None):
            whole.update(text.encode())
        return whole.hexdigest()

    def documents(self, use, data_dir, maker):
        files = sorted(Path(os.__file__).parent.glob("*.py"))
        return [file.read_text(encoding="utf-8") for file in files]


LIBRARY = Library("modules of Python's standard library", licence="PSF-2.0")
