"""Write files and folders completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from methods.contract.errors import UserError

DECIDES_NO_NUMBER = True


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`. If the block ends without an error, the file is flushed
    and replaces `path`."""
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _locked_file(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a whole file, text in UTF-8, as `atomic_write` does."""
    if isinstance(content, str):
        content = content.encode()
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _locked_file(path: Path) -> tuple[int, Path]:
    """Create and lock a file beside `path`. The lock ends with the process, so that `sweep` can
    delete abandoned files."""
    while True:
        temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
        # Less what the umask takes away.
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # else it was swept before it was locked
            return handle, temporary
        os.close(handle)


def require_folder(path: Path, option: str = "--out", *, new: bool) -> None:
    """Refuse a folder that cannot be created or written, before the work whose result goes there.

    option: flag that names the folder. new: refuse a folder that has files.
    """
    try:
        place = find_existing(path)
        if (
            new
            and place == _absolute(path)
            and place.is_dir()
            and (place == Path.cwd() or place.is_mount())
        ):
            kind = "the current folder" if place == Path.cwd() else "a mount point"
            raise UserError(
                f"{option} {str(path)!r} is {kind}, which cannot be replaced: name a new folder "
                "in it"
            )
        if path.is_symlink() and not path.exists():  # the folder would appear elsewhere
            raise UserError(
                f"{option} {str(path)!r} is a link to a folder that does not exist: create that "
                "folder, or name another"
            )
        if place == _absolute(path) and not place.is_dir():
            raise UserError(f"{option} {str(path)!r} is a file, not a folder: name another")
        if new and place == _absolute(path) and any(place.iterdir()):
            raise UserError(f"{option} {str(path)!r} exists already: use a new folder, or empty it")
        os.rmdir(tempfile.mkdtemp(prefix=".probe-", dir=place))
    except (OSError, ValueError) as fault:
        if getattr(fault, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{option} {str(path)!r} cannot be created ({_reason(fault)}): name another folder"
        ) from None


def require_writable_file(path: Path, option: str) -> None:
    """Refuse a file that cannot be written, before the work whose result goes there. option: flag
    that names the file."""
    try:
        place = find_existing(path)
        if place != _absolute(path):
            os.rmdir(tempfile.mkdtemp(prefix=".probe-", dir=place))
        elif place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        elif not place.is_file():
            raise OSError(errno.EINVAL, "not a regular file")
        elif not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as fault:
        raise UserError(
            f"{option} {str(path)!r} cannot be written ({_reason(fault)}): name another file"
        ) from None


def find_existing(path: Path) -> Path:
    """Return the absolute path itself, or the nearest path above it that exists. That may be a
    file."""
    place = _absolute(path)
    while True:
        try:
            os.stat(place)
        except (FileNotFoundError, NotADirectoryError):
            place = place.parent
        else:
            return place


def _absolute(path: Path) -> Path:
    """Return the absolute path that links lead to."""
    return Path(os.path.realpath(path))


def _reason(fault: BaseException) -> str:
    return str(getattr(fault, "strerror", None) or fault)


@contextlib.contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out`. It becomes `out` if the block ends without an error, and is
    deleted otherwise.

    If `out` is a link, it stays one, and the folder is made where it leads to. What a killed
    process left of the same `out` is deleted. Refuse an `out` with files.
    """
    require_folder(out, new=True)
    out = _absolute(out)
    mark = hashlib.sha256(os.fsencode(out.name)).hexdigest()[:16]
    for abandoned in out.parent.glob(f".{mark}.{'[0-9a-f]' * 32}.tmp"):
        _delete_unheld(abandoned)
    folder = out.parent / f".{mark}.{uuid.uuid4().hex}.tmp"
    folder.mkdir(parents=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)  # another process could delete it until it was locked
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def sweep(folder: Path, pattern: str = ".*.tmp") -> None:
    """Delete unfinished files of killed processes.

    These are files of `atomic_write` that no process locks, and other matches of the pattern that
    are a day old.
    """
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # it is gone, or belongs to another user
            if (
                path.suffix == ".tmp"
                and path.is_file()
                and not path.is_symlink()
                and _delete_unheld(path)
            ):
                continue
            if path.stat().st_mtime < time.time() - 86400:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _delete_unheld(path: Path) -> bool:
    """Delete a file or folder unless a process locks it. Return False if that cannot be known:
    another user's, or no locks."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    except BlockingIOError:  # in use, even if its time says otherwise: clocks jump
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def publish(folder: Path, target: Path) -> None:
    """Move a finished folder to its place. If another process was faster, keep that folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.rename(target)
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(folder)
