"""Wheels of the package index, downloaded for the data in them: never installed, and nor are their dependencies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.system import digests
from methods.errors import UserError


def download_wheel(requirement: str, folder: Path, alternative: str) -> Path:
    """Download a wheel with pip, which reads its own settings for the index, into a new folder.

    Args:
        requirement: "distribution==version".
        alternative: what a user can do without the wheel, for the error.

    Raises:
        UserError: pip cannot fetch it.
    """
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"{requirement} could not be fetched from the package index ({why}): check the network or pip's index, "
            f"or {alternative}"
        )
    return wheels[0]


def check_digest(file: Path, sha256: str, what: str) -> None:
    """Check a file before it is read. what: the file in words, for the error.

    Raises:
        UserError: its digest is another.
    """
    if (digest := digests.of_file(file)) != sha256:
        raise UserError(
            f"checksum mismatch: {what} has sha256 {digest}, not {sha256}; it is not used: pull again, and if that "
            "changes nothing, check which index pip uses (pip config list)"
        )
