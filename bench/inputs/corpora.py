"""Corpora by name: files, digests and documents."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.catalog import registry
from bench.inputs import own_text, wikimini
from bench.inputs.bos import Bos
from bench.inputs.hub import data_set, fill, is_whole, roots
from bench.inputs.mixtures import shares_of
from bench.system import digests
from bench.system.cache import cache_dir
from bench.system.suggest import describe_unknown
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from methods.contract.method import Compute

Document = str | list[int]
"""A text, or its tokens if the model or its vocabulary made it."""


@dataclass(frozen=True)
class CorpusSource:
    """Description of a corpus: where its files are, and how rows become a text. Without `hub` it is
    part of this package."""

    about: str
    hub: str = ""
    files: tuple[tuple[str, str], ...] = ()
    """Pairs of a use and a glob pattern in the repository. Uses: evaluation, validation,
    calibration, training."""
    column: str = "text"
    strip: bool = False
    """True to remove the newline at the end of each row."""
    joiner: str = "\n\n"
    rows: int | None = None
    """Number of rows that evaluation reads, from the first. None reads all."""
    tokens: int = 100_000
    """Approximate number of tokens of the evaluation text."""
    licence: str = ""
    """Licence of the text."""

    @property
    def uses(self) -> tuple[str, ...]:
        """Uses that it has text for."""
        return tuple(use for use, _ in self.files) or tuple(_WIKI_MINI_SPLITS)


class Maker(NamedTuple):
    """What a worker offers a corpus that a model or its vocabulary makes."""

    tokenizer: Any
    load: Callable[[], nn.Module]
    """Function that loads the dense model."""
    folder: Path
    """Folder of the dense model."""
    compute: Compute
    bos: Bos = ""


@dataclass(frozen=True)
class TextSource(CorpusSource):
    """A corpus that an entry of the section `corpora` provides."""

    by_model: bool = False
    """True if its documents need a Maker, so that only a worker has them."""

    @abstractmethod
    def digest(self, data_dir: Path | None) -> str:
        """Return the digest of all that decides its documents, beside the model. "" if its files
        are not on this machine."""

    @abstractmethod
    def documents(self, use: str, data_dir: Path | None, maker: Maker | None) -> Sequence[Document]:
        """Return the documents for a use."""

    def pull(self, root: Path) -> list[Path]:
        """Download its files into the mirror or cache `root`."""
        return []


_WIKITEXT = (
    ("evaluation", "wikitext-2-raw-v1/test-*.parquet"),
    ("validation", "wikitext-2-raw-v1/validation-*.parquet"),
    ("calibration", "wikitext-2-raw-v1/train-*.parquet"),
    ("training", "wikitext-2-raw-v1/train-*.parquet"),
)
CORPORA = {
    "wiki-mini": CorpusSource(
        "95 Wikipedia articles of this package, split by article", licence="CC BY-SA 3.0"
    ),
    "wikitext2": CorpusSource(
        "WikiText-2 raw; rows joined by a blank line, 287,644 GPT-2 tokens",
        "Salesforce/wikitext",
        _WIKITEXT,
        tokens=300_000,
        licence="CC BY-SA 3.0",
    ),
    "wikitext2-stripped": CorpusSource(
        "the same, each row without its own newline, 284,753 GPT-2 tokens",
        "Salesforce/wikitext",
        _WIKITEXT,
        strip=True,
        tokens=300_000,
    ),
    "c4": CorpusSource(
        "C4 en: calibration from the first training shard, evaluation on the first 1,100 "
        "validation pages",
        "allenai/c4",
        (
            ("evaluation", "en/c4-validation.00000-of-00008.json.gz"),
            ("calibration", "en/c4-train.00000-of-01024.json.gz"),
            ("training", "en/c4-train.*.json.gz"),
        ),
        joiner=" ",
        rows=1100,
        tokens=550_000,
        licence="ODC-BY",
    ),
    "fineweb-edu": CorpusSource(
        "FineWeb-Edu, the sample of 10 billion tokens: for training, streamed",
        "HuggingFaceFW/fineweb-edu",
        (("training", "sample/10BT/*.parquet"),),
        licence="ODC-BY",
    ),
    "slimpajama-6b": CorpusSource(
        "a sample of SlimPajama, 6 billion tokens: for training, streamed",
        "DKYoon/SlimPajama-6B",
        (("training", "data/train-*.parquet"),),
        licence="several, by source",
    ),
}

_WIKI_MINI_SPLITS = {
    "evaluation": "test",
    "validation": "validation",
    "calibration": "train",
    "training": "train",
}


registry.reserve("corpora", CORPORA)


def names() -> list[str]:
    """Return the names of all corpora, those of parts and packages after ours."""
    return [*CORPORA, *registry.names("corpora")]


def find(name: str) -> CorpusSource | None:
    """Return the corpus of a name, or None. Raise UserError if that of a package cannot be used."""
    if name in CORPORA or name not in registry.names("corpora"):
        return CORPORA.get(name)
    entry = registry.lookup("corpora", name)
    with registry.guarded(entry):
        source = registry.load(entry)
        if not isinstance(source, TextSource):
            raise TypeError(f"it is no bench.inputs.corpora.TextSource, but {source!r:.80}")
        return source


def lookup(name: str) -> CorpusSource:
    """Return the corpus of a name, or of the path of a text file. Raise UserError with the nearest
    known names."""
    own = own_text.parse(name)
    if own:
        # A token has about four bytes.
        return CorpusSource("text files of the user", tokens=own_text.count_bytes(own) // 4)
    source = find(name)
    if source is None:
        also = ", or a .txt, .jsonl or .parquet file, or a folder of them"
        raise UserError(describe_unknown("corpus", name, names(), also))
    return source


def require(name: str) -> None:
    """Raise UserError if a corpus is unknown, or a field is named in plain text."""
    own = own_text.parse(name)
    if own is None and name not in names() and Path(name).is_dir():
        raise UserError(
            f"{name!r} is no corpus: if you mean the folder of that name, type ./{name}"
        )
    lookup(name)
    if own and own.field and not any(file.suffix in (".jsonl", ".parquet") for file in own.files):
        raise UserError(f"{str(own.path)!r} is plain text without fields: leave :{own.field} out")


def require_split(name: str, use: str) -> None:
    """Check that a corpus has text for a use. Raise UserError if the corpus has no such text."""
    if own_text.parse(name):
        if use == "validation":
            raise UserError(
                f"{name} has one split: name the file with the validation text, and leave "
                "perplexity.split out"
            )
        return
    if use not in lookup(name).uses:
        suitable = [other for other in names() if use in lookup(other).uses]
        raise UserError(f"{name} has no {use} split: use {' or '.join(suitable)}")


def files(name: str, use: str, data_dir: Path | None) -> list[Path]:
    """Return the local files of a hub corpus: those of the mirror, else of the cache. Empty if
    neither has them.

    An unfinished download does not count. For training, the single file for calibration does not
    count either.
    """
    corpus = lookup(name)
    patterns = dict(corpus.files)
    if use not in patterns:
        return []
    calibration = patterns.get("calibration", "")
    for root in roots(data_dir):
        folder = root / corpus.hub
        paths = sorted(folder.glob(patterns[use]))
        if use == "training" and calibration not in ("", patterns[use]):
            only_calibration = set(paths) <= set(folder.glob(calibration))
            paths = [] if only_calibration else paths
        if paths and is_whole(folder, patterns[use]):
            return paths
    return []


def digest(name: str, use: str, data_dir: Path | None, *, fetch: bool) -> str:
    """Return the digest of the text of a corpus or mixture, or "" if it is not here. fetch:
    download it into the cache in that case."""
    shares = shares_of(name)
    if len(shares) > 1:
        parts = [digest(part, use, data_dir, fetch=fetch) for part in shares]
        return digests.of([*zip(shares.values(), parts, strict=True)]) if all(parts) else ""
    own = own_text.parse(name)
    if own:
        return own_text.content_digest(own)
    source = lookup(name)
    if isinstance(source, TextSource):
        if fetch and not source.digest(data_dir):
            source.pull(cache_dir() / "data")
        return source.digest(data_dir)
    if not source.hub:
        return wikimini.VERSION
    if fetch and not files(name, use, data_dir):
        pull(name, cache_dir() / "data", use, data_dir)
    found = files(name, use, data_dir)
    return digests.of([digests.of_file(f) for f in found]) if found else ""


def pull(name: str, root: Path, use: str | None = None, data_dir: Path | None = None) -> list[Path]:
    """Download the files of a hub corpus into the mirror or cache `root`. use: only files for this
    use, None for all."""
    corpus = lookup(name)
    if isinstance(corpus, TextSource):
        return corpus.pull(root)
    if not corpus.hub:
        return []
    table = "calibration" if use == "calibration" else "perplexity"
    option = f"--set {table}.data=" if use else ""
    way = f"take a corpus that needs no download ({option}wiki-mini)"
    repository = data_set(corpus.hub, f"corpus {name}", way, data_dir)
    return fill(
        root,
        repository,
        tuple(pattern for file_use, pattern in corpus.files if use in (None, file_use)),
    )


def documents(
    name: str,
    use: str,
    data_dir: Path | None,
    render: own_text.Render | None = None,
    maker: Maker | None = None,
) -> Sequence[Any]:
    """Return the documents of a corpus: articles, rows or pages. Only a corpus that needs `maker`
    has lists of tokens.

    render: writes the messages of a user's chat data.
    """
    own = own_text.parse(name)
    if own:
        return list(own_text.read(own, render))
    source = lookup(name)
    if isinstance(source, TextSource):
        if source.by_model and maker is None:
            raise UserError(
                f"{name} needs the model, and is for calibration alone: use another corpus"
            )
        return source.documents(use, data_dir, maker)
    if not source.hub:
        return [a.text for a in wikimini.articles(_WIKI_MINI_SPLITS[use])]
    paths = files(name, use, data_dir)
    if not paths:
        raise UserError(
            f"{name} has no {use} text in {data_dir or cache_dir() / 'data'}: run bench pull {name}"
        )
    from datasets import Dataset  # slow to import

    read = Dataset.from_parquet if paths[0].suffix == ".parquet" else Dataset.from_json
    try:
        rows = read([str(f) for f in paths], cache_dir=str(cache_dir() / "datasets"))
        column: Sequence[str] = rows[lookup(name).column]
    except Exception as fault:  # the kind depends on the damage
        cause = fault.__cause__ or fault
        if isinstance(cause, OSError) and cause.errno:  # a fault of the disk, not of the content
            raise
        where = paths[0] if len(paths) == 1 else f"a file in {paths[0].parent}"
        way = f"delete it and run bench pull {name}, or replace it"
        raise UserError(f"{name}: {where} cannot be read ({cause}): {way}") from None
    return [row.rstrip("\n") for row in column] if lookup(name).strip else column
