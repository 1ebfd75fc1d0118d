"""The articles of wiki-mini without the paragraphs that share text with test questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.inputs import wikimini
from bench.inputs.corpora import Document, Maker, TextSource
from bench.parts.sources.removed import without_removed
from bench.system import digests
from bench.system.source_digest import digest_source

_SPLITS = {"calibration": "train", "training": "train"}


@dataclass(frozen=True)
class Wiki(TextSource):
    @property
    def uses(self) -> tuple[str, ...]:
        return tuple(_SPLITS)

    def digest(self, data_dir: Path | None) -> str:
        return digests.of([wikimini.VERSION, digest_source(__name__)])

    def documents(self, use: str, data_dir: Path | None, maker: Maker | None) -> Sequence[Document]:
        articles = wikimini.articles(_SPLITS[use])
        return ["\n".join(without_removed("wiki", a.text.split("\n"))) for a in articles]


WIKI = Wiki(
    "the training articles of wiki-mini, without paragraphs that are in test questions",
    licence="CC BY-SA 3.0",
)
