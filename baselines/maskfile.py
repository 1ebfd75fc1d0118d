"""Masks from a file in the format of MaskLLM's authors: `mask_compressed.npz`.

The format as NVlabs/MaskLLM writes and reads it (tool_compute_mask_hf.py, tool_compress_mask.py,
eval_llama_ppl.py): an npz with one uint8 vector per pruned weight, named after the parameter of the
transformers model with `.mask`, for example `model.layers.0.self_attn.q_proj.weight.mask`. It is
np.packbits, highest bit first, of the mask in the row-major order of the stored weight, 1 where a
weight is kept. Not tested with a released file.

The file is not trusted: nothing is unpickled, and each size is checked against the model before it
is read.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from methods import Job, Outcome, UserError, Walk
from methods.model.targets import family_of

SUFFIX = ".weight.mask"
HEADER_BYTES = 4096
"""More bytes than numpy writes before the data of a vector."""


def _invalid(path: Path, what: str) -> UserError:
    return UserError(
        f"invalid mask file {str(path)!r}: {what}; use a mask_compressed.npz of this model"
    )


def open_masks(path: Path) -> zipfile.ZipFile:
    """Open a mask file. Raise UserError if the file cannot be read, is not an npz, or has other
    members than masks."""
    # A device has no end, and a pipe waits for its writer.
    if path.exists() and not path.is_file():
        raise _invalid(path, "not a regular file")
    try:
        archive = zipfile.ZipFile(path)
    except OSError as fault:
        raise UserError(f"cannot read mask file {str(path)!r}: {fault.strerror}") from None
    except zipfile.BadZipFile as fault:
        raise _invalid(path, f"not an npz file ({fault})") from None
    other = next((name for name in archive.namelist() if not name.endswith(f"{SUFFIX}.npy")), None)
    if other:
        raise _invalid(path, f"{other!r} is not a mask")
    return archive


class MaskFile:
    """The masks of the targets of this model, read one by one. shapes: target -> shape of its
    weight in files."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.path, self._shapes = path, dict(shapes)
        self._zip = open_masks(path)
        members = [i.filename for i in self._zip.infolist()]
        expected = {f"{t}{SUFFIX}.npy" for t in shapes}
        missing = sorted(expected - set(members))
        if missing:
            raise _invalid(path, f"mask {missing[0].removesuffix('.npy')} is missing")
        if len(members) > len(expected):
            more = next((n for n in members if n not in expected), members[0])
            raise _invalid(path, f"{more!r} is not a mask of this model's targets")
        for target in shapes:
            size, packed = (
                self._zip.getinfo(f"{target}{SUFFIX}.npy").file_size,
                self._packed(target),
            )
            if not packed < size <= packed + HEADER_BYTES:
                shape = "x".join(map(str, self._shapes[target]))
                raise _invalid(
                    path,
                    f"{size:,} bytes for {target}, whose {shape} bits take {packed:,} and a short "
                    "header",
                )

    def _packed(self, target: str) -> int:
        return (int(np.prod(self._shapes[target])) + 7) // 8

    def read(self, target: str) -> Tensor:
        """Return the mask of a target, bool, in the shape of the weight in files. Raise UserError
        if it is damaged."""
        shape, packed = self._shapes[target], self._packed(target)
        try:
            with self._zip.open(f"{target}{SUFFIX}.npy") as stream:
                version = np.lib.format.read_magic(stream)
                if version != (1, 0):
                    raise ValueError(f"unexpected version {version} of the npy format")
                length, _, dtype = np.lib.format.read_array_header_1_0(stream)
                if dtype != np.uint8 or length != (packed,):
                    raise _invalid(
                        self.path,
                        f"{dtype} {list(length)} for {target} instead of uint8 [{packed}]",
                    )
                data = stream.read(packed)
        except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as fault:
            raise _invalid(self.path, f"damaged at {target} ({fault})") from None
        if len(data) != packed:
            raise _invalid(self.path, f"incomplete at {target}")
        bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=int(np.prod(shape)))
        return torch.from_numpy(bits.astype(bool)).view(shape)


def apply(method: str, path: Path, sha256: str, model: nn.Module, job: Job) -> Outcome:
    """Prune the targets with the masks of a file. Refuse masks that break the pattern, `from=`, and
    another sha256."""
    if job.prior:
        raise UserError(f"{method}: file= and from= cannot be combined: leave from= out")
    transposed = family_of(model.config.to_dict()).transposed  # type: ignore[operator, union-attr]
    shapes = {t: model.get_parameter(f"{t}.weight").shape for t in job.targets}
    masks = MaskFile(path, {t: shape[::-1] if transposed else shape for t, shape in shapes.items()})
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 and digest != sha256:
        raise UserError(
            f"checksum mismatch: mask file {str(path)!r} has sha256 {digest[:12]}… and not "
            f"{sha256[:12]}…"
        )
    walk = Walk(model, job)
    for visit in walk:
        stored = masks.read(visit.name)
        keep = stored.T if transposed else stored
        violations = job.pattern.violations(keep)
        if violations:
            raise UserError(
                f"invalid mask file {str(path)!r}: {job.pattern.broken_in(violations)} of "
                f"{visit.name}"
            )
        visit.prune(keep.to(visit.weight.device))
    return walk.outcome(mask_file=path.name, sha256=digest)
