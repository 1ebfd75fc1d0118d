"""Masks from a file, as MaskLLM's authors release theirs: `mask_compressed.npz`.

What this stands on, read in NVlabs/MaskLLM (tool_compute_mask_hf.py, tool_compress_mask.py, eval_llama_ppl.py): an npz of
one uint8 vector for each pruned weight, named as the parameter of the transformers model and `.mask`, for example
`model.layers.0.self_attn.q_proj.weight.mask`; it is np.packbits, highest bit first, of the mask read row by row as the
weight is stored, 1 where it is kept. No released file was at hand to try.

The file is a stranger's: nothing is unpickled, and every size is checked against the model's before it is read.
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

from methods.contract import Job, Outcome
from methods.errors import UserError
from methods.pruning.walk import Walk
from methods.targets import holds_in_out

SUFFIX = ".weight.mask"
HEADER_BYTES = 4096
"""More than numpy writes before the data of a vector."""


class MaskFile:
    """The masks of `shapes`, target -> shape of its weight as stored; read one by one.

    Raises:
        UserError: not there, no npz, other names than the targets', or a size that is not the weight's.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.path, self._shapes = path, dict(shapes)
        try:
            self._zip = zipfile.ZipFile(path)
        except OSError as fault:
            raise UserError(f"mask file {str(path)!r} cannot be read: {fault.strerror}") from None
        except zipfile.BadZipFile as fault:
            raise self._bad(f"is no npz file ({fault})") from None
        members = [i.filename for i in self._zip.infolist()]
        wanted = {f"{t}{SUFFIX}.npy" for t in shapes}
        if missing := sorted(wanted - set(members)):
            raise self._bad(f"has no mask {missing[0].removesuffix('.npy')}, which this model needs")
        if len(members) > len(wanted):
            more = next((n for n in members if n not in wanted), members[0])
            raise self._bad(f"holds {more!r} beside the masks of this model's targets: is it another model's?")
        for target in shapes:
            self._check_size(target)

    def _bad(self, what: str) -> UserError:
        return UserError(f"mask file {str(self.path)!r} {what}; it should be a mask_compressed.npz of this model")

    def _check_size(self, target: str) -> None:
        size = self._zip.getinfo(f"{target}{SUFFIX}.npy").file_size
        packed = self._packed(target)
        if not packed < size <= packed + HEADER_BYTES:
            shape = "x".join(map(str, self._shapes[target]))
            raise self._bad(f"gives {target} {size:,} bytes, and {shape} bits take {packed:,} and a short header")

    def _packed(self, target: str) -> int:
        return (int(np.prod(self._shapes[target])) + 7) // 8

    def read(self, target: str) -> Tensor:
        """bool, of the shape of the weight as stored.

        Raises:
            UserError: damaged, or no vector of bits.
        """
        shape, packed = self._shapes[target], self._packed(target)
        try:
            with self._zip.open(f"{target}{SUFFIX}.npy") as stream:
                version = np.lib.format.read_magic(stream)
                header = np.lib.format.read_array_header_1_0 if version == (1, 0) else _refuse_version
                length, _, dtype = header(stream)
                if dtype != np.uint8 or length != (packed,):
                    raise self._bad(f"gives {target} {dtype} {list(length)} and not uint8 [{packed}]")
                data = stream.read(packed)
        except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as fault:
            raise self._bad(f"is damaged at {target} ({fault})") from None
        if len(data) != packed:
            raise self._bad(f"is cut short at {target}")
        bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=int(np.prod(shape)))
        return torch.from_numpy(bits.astype(bool)).view(shape)


def _refuse_version(_stream: object) -> tuple[tuple[int, ...], bool, np.dtype[np.uint8]]:
    raise ValueError("a version of the npy format that short vectors never have")


def apply(method: str, path: Path, sha256: str, model: nn.Module, job: Job) -> Outcome:
    """Mask the targets with what is in the file.

    Raises:
        UserError: as `MaskFile`; a mask that breaks the pattern; a prior beside it; or the file has another sha256.
    """
    if job.prior:
        raise UserError(f"{method}:file= is a mask already: leave from= out")
    modules = {t: model.get_submodule(t) for t in job.targets}
    masks = MaskFile(path, {t: m.get_parameter("weight").shape for t, m in modules.items()})
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 and digest != sha256:
        raise UserError(f"mask file {str(path)!r} has sha256 {digest[:12]}… and not {sha256[:12]}…: it is another file")
    walk = Walk(model, job)
    for visit in walk:
        keep = masks.read(visit.name)
        keep = keep.T if holds_in_out(modules[visit.name]) else keep
        if broken := job.pattern.violations(keep):
            raise UserError(f"mask file {str(path)!r} breaks {job.pattern} in {broken:,} groups of {visit.name}")
        visit.prune(keep.to(visit.weight.device))
    return walk.outcome(mask_file=path.name, sha256=digest)
