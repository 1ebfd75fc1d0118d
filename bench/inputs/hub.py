"""The Hugging Face hub, and mirrors of it.

A mirror is a folder with the layout `<mirror>/<hub id>/<file>`. The cache has the same layout, and
`bench pull` fills both. A mirror named by `--data-dir` or $BENCH_DATA_DIR is searched first, then
the cache, then the hub.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path
from typing import Literal, NamedTuple

from bench.system.cache import cache_dir
from bench.system.files import write_file
from methods.contract.errors import UserError

DECIDES_NO_NUMBER = True

DATA_ENV = "BENCH_DATA_DIR"
OFFLINE_ENV = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
YES = ("1", "ON", "YES", "TRUE")
"""Values of OFFLINE_ENV that the hub's client takes for true."""
TIMEOUT_S = 4.0
"""Timeout of the first answer of the hub. Without a network a run must fail soon."""
REVISION_FILE = "REVISION"
UNFINISHED_FILE = "UNFINISHED"
"""File with the names of all files of an unfinished download, one per line."""


def mirror(data_dir: Path | None) -> Path | None:
    """Return the mirror: `data_dir`, else the folder in $BENCH_DATA_DIR, else None."""
    named = os.environ.get(DATA_ENV)
    if named and not data_dir:
        return Path(named)
    return data_dir


def offline_variable() -> str:
    """Return the environment variable that forbids requests to the hub; "" if none is set."""
    return next((name for name in OFFLINE_ENV if os.environ.get(name, "").upper() in YES), "")


def require_mirror(folder: Path) -> None:
    """Check that a mirror exists. Raise UserError if the folder does not exist."""
    if not os.path.isdir(folder):
        raise UserError(
            f"data directory {str(folder)!r} does not exist: create it, or leave --data-dir and "
            f"${DATA_ENV} out"
        )


def roots(data_dir: Path | None) -> tuple[Path, ...]:
    """Return the folders to search for data: the mirror, if one is given, then the cache."""
    cache = cache_dir() / "data"
    return (data_dir, cache) if data_dir else (cache,)


def is_whole(folder: Path, pattern: str = "*") -> bool:
    """Return whether no unfinished download lacks a file that matches the pattern."""
    return all(os.path.exists(folder / name) for name in matching(_unfinished(folder), (pattern,)))


def _unfinished(folder: Path) -> list[str]:
    file = folder / UNFINISHED_FILE
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []


def recorded_revision(folder: Path) -> str:
    """Return the commit that `fill` recorded in the folder of a data set; "mirror" if none is
    recorded."""
    file = folder / REVISION_FILE
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.exists() else "mirror"


class Snapshot(NamedTuple):
    """Current state of a repository on the hub."""

    revision: str
    """Commit hash."""
    files: tuple[str, ...]


@dataclass(frozen=True)
class Repository:
    """A repository on the hub, with the words for errors."""

    id: str
    kind: Literal["model", "dataset"]
    label: str
    """Name of what needs the repository, for example "corpus c4"."""
    alternative: str
    """Advice for users who cannot download it, for example "take a corpus that needs no download
    (wiki-mini)"."""
    searched: tuple[Path, ...] = ()
    """Local folders that were searched before."""

    def latest(self) -> Snapshot:
        """Return the current revision and its files. Raise UserError if the hub does not answer, or
        refuses."""
        from huggingface_hub import HfApi  # slow to import, like the names below

        with self._errors():
            ask = HfApi().model_info if self.kind == "model" else HfApi().dataset_info
            info = ask(self.id, timeout=TIMEOUT_S)
        return Snapshot(str(info.sha), tuple(s.rfilename for s in info.siblings or []))

    def download(self, snapshot: Snapshot, files: Iterable[str], folder: Path) -> list[Path]:
        """Download files of a snapshot into `folder`, and return their paths. Raise UserError if
        the hub refuses."""
        from huggingface_hub import snapshot_download

        wanted = list(files)
        if wanted:
            with self._errors():
                snapshot_download(
                    self.id,
                    repo_type=self.kind,
                    revision=snapshot.revision,
                    local_dir=folder,
                    allow_patterns=[escape(file) for file in wanted],
                )
                for file in wanted:  # some versions return silently when the connection breaks
                    (folder / file).stat()
        return [folder / file for file in wanted]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
        )

        # The client does not wrap the errors of its HTTP library, and that library changes between
        # versions. Its root error is a base of an error of the client.
        unreachable: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError)
        what = self.label if self.id in self.label else f"{self.label} ({self.id})"
        if self.searched:
            missing = f"{what} is not in {' or '.join(map(str, self.searched))}"
        else:
            missing = f"{what} is not here"
        folder = "datasets/" if self.kind == "dataset" else ""
        page = f"huggingface.co/{folder}{self.id}"
        copy = f"copy it to <mirror>/{self.id}/ and pass --data-dir <mirror> (or set {DATA_ENV})"
        try:
            yield
        except (GatedRepoError, RepositoryNotFoundError):
            raise UserError(
                f"{what} is gated, private or missing on the hub: accept its licence at {page} "
                f"and set HF_TOKEN, or {copy}, or {self.alternative}"
            ) from None
        except HFValidationError as error:
            raise UserError(
                f"{what} cannot be the name of a repository on the hub: {error}"
            ) from None
        except OfflineModeIsEnabled:
            raise UserError(
                f"{missing}, and ${offline_variable()} is set: unset it and connect, or {copy}, "
                f"or {self.alternative}"
            ) from None
        except unreachable as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UserError(
                f"{missing}, and the hub does not answer ({reason}): connect, or {copy}, or "
                f"{self.alternative}"
            ) from None


def data_set(
    id: str, label: str, alternative: str, data_dir: Path | None, config: str = ""
) -> Repository:
    """Return a data set that was searched for in the mirror and in the cache. label and
    alternative: see `Repository`."""
    return Repository(
        id, "dataset", label, alternative, tuple(root / id / config for root in roots(data_dir))
    )


def fill(
    root: Path, repository: Repository, only: tuple[str, ...] = ("*",), ignore: tuple[str, ...] = ()
) -> list[Path]:
    """Download a data set into the mirror or cache `root`, and record its revision beside it.
    Return the paths of the files.

    only, ignore: glob patterns of files to download, and of exceptions. Raise UserError if the hub
    refuses.
    """
    snapshot = repository.latest()
    folder = root / repository.id
    folder.mkdir(parents=True, exist_ok=True)
    wanted = matching(snapshot.files, only, ignore)
    write_file(
        folder / UNFINISHED_FILE, "".join(f"{name}\n" for name in {*_unfinished(folder), *wanted})
    )
    files = repository.download(snapshot, wanted, folder)
    (folder / REVISION_FILE).write_text(f"{snapshot.revision}\n")
    if is_whole(folder):
        (folder / UNFINISHED_FILE).unlink(missing_ok=True)
    return files


def matching(
    files: Iterable[str], only: tuple[str, ...], ignore: tuple[str, ...] = ()
) -> list[str]:
    """Return the files that match a pattern of `only` and none of `ignore`."""
    return [f for f in files if _matches(f, only) and not _matches(f, ignore)]


def _matches(file: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(file, pattern) for pattern in patterns)
