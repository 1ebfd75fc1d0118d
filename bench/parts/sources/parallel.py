"""Debian Reference in eight languages, translated paragraph by paragraph, to compare languages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.inputs.corpora import Document, Maker
from bench.parts.sources.packages import LANGUAGES, TECHNICAL, Deb, PackageText
from bench.system import digests
from bench.system.source_digest import digest_source
from methods.contract.errors import UserError

PARAGRAPHS = 170
"""Paragraphs of a document, so that a document has about the same content in each language."""


@dataclass(frozen=True)
class Translation(PackageText):
    """The whole text in one language, for evaluation alone."""

    @property
    def uses(self) -> tuple[str, ...]:
        return ("evaluation",)

    def digest(self, data_dir: Path | None) -> str:
        found = super().digest(data_dir)
        return found and digests.of([found, digest_source(__name__)])

    def documents(self, use: str, data_dir: Path | None, maker: Maker | None) -> Sequence[Document]:
        file = self._find(data_dir)
        if file is None:
            raise UserError(
                f"the text of {self.name} is not on this machine: run bench pull {self.name}"
            )
        paragraphs = file.read_text(encoding="utf-8").split("\n\n")
        starts = range(0, len(paragraphs), PARAGRAPHS)
        return ["\n\n".join(paragraphs[at : at + PARAGRAPHS]) for at in starts]


def _translation(name: str, code: str, sha256: str) -> Translation:
    """code: of the language, in the name of its package."""
    every = (*TECHNICAL.packages, *LANGUAGES.packages)
    package = next(p for p in every if isinstance(p, Deb) and f"-{code}_" in p.place)
    return Translation(
        f"Debian Reference in {name}, whole",
        tokens=150_000,
        licence="GPL-2+",
        name=f"languages-{code}",
        packages=(package,),
        sha256=sha256,
    )


ENGLISH = _translation(
    "English", "en", "b417dca54e17adc4341ae15f2576087b3bbedde5125e9ff6a99018c149588099"
)
GERMAN = _translation(
    "German", "de", "0ae8efd04f6d25847f84f6e0a179a32076dcb635eacdfca8946f565e018309a4"
)
SPANISH = _translation(
    "Spanish", "es", "0c0db7a152e752c2fc81ea1ae5b1a60873a70945ee72cdfe40df0a8de92584eb"
)
FRENCH = _translation(
    "French", "fr", "0236c49cf3cea25a63ec12cc083ca019dca1272f7dab520258469d8804d29268"
)
ITALIAN = _translation(
    "Italian", "it", "cb0d29d024c834d0cdf2e5a047ef91ec87db3ed66b7bf835f1834896391b3577"
)
JAPANESE = _translation(
    "Japanese", "ja", "2e8f1e5a71f84571c9c44535bbaf139d2b2df0c1f814089e854620f52cad7a4e"
)
PORTUGUESE = _translation(
    "Portuguese", "pt", "8ab774eda6ae63b0683f5b37dd2ff71319d0e4e8826439ece28c3d065b65f23a"
)
CHINESE = _translation(
    "Chinese", "zh-cn", "243446d459cae87e4c2407f4c4064b64bfd7cf02410f6ec0e918ad32d3c4dfda"
)
