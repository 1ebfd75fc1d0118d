"""Decode the stored weights of a model folder in a process that has never seen them.

A codec of another package may keep weights in its module, and so decode what is in no file.
`digests_of` starts such a process, in which this module prints the digest of each weight.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from bench.catalog import registry
from bench.formats.stored import StoredFolder
from bench.system import interpreter
from methods.contract.errors import UserError
from methods.model.folder import dtype_name

SECONDS = 3600
"""Time limit of the process."""


def digest_of(weight: Tensor) -> str:
    """Return the sha256 of a weight's bits."""
    return hashlib.sha256(weight.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def digests_of(folder: Path, computed: torch.dtype, written: torch.dtype) -> dict[str, str]:
    """Return the digest of each stored weight of a model folder by target.

    computed: number format of the arithmetic, to which a weight is rounded first; written: that of
    the model's files. Raise UserError if a codec fails in a new process.
    """
    stored = StoredFolder(folder)
    names = sorted({stored.codec(target).name for target in stored})
    files = {name: file for name in names if (file := registry.file_of("codecs", name))}
    arguments = [str(folder), dtype_name(computed), dtype_name(written), json.dumps(files)]
    done = subprocess.run(
        interpreter.command(__name__, *arguments),
        env=interpreter.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2]
        raise UserError(
            f"the stored weights cannot be decoded in a new process ({said}): a codec may keep "
            "nothing in memory"
        )
    out: dict[str, str] = json.loads(done.stdout)
    return out


def main() -> None:
    """Print the digests of the folder and number formats that the command line names, as JSON.

    The last argument is FILE:CLASS of each codec in a file that the user named, by name.
    """
    folder, computed, written, files = sys.argv[1:]
    for name, file in json.loads(files).items():
        registry.use_file("codecs", name, file)
    digests = {}
    for target, stored in StoredFolder(Path(folder)).items():
        weight = stored.decode().to(getattr(torch, computed)).to(getattr(torch, written))
        digests[target] = digest_of(weight)
    print(json.dumps(digests))


if __name__ == "__main__":
    main()
