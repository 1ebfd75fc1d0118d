"""The method `folder`: a model that was pruned, quantized or trained by another tool."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from bench.formats.checkpoint import Checkpoint
from bench.formats.opening import content_digest, open_checkpoint
from bench.parts.folders.differences import list_differences, same_values
from methods.contract.codec import Storage
from methods.contract.errors import UserError
from methods.contract.info import Cost, Does, InputFile, MethodInfo
from methods.contract.method import Job, Needs, Outcome
from methods.model.families import FAMILIES
from methods.model.folder import Folder, Writer, dtype_name
from methods.model.targets import find_targets
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY


@dataclass(frozen=True)
class ModelFolder:
    """A model made elsewhere, beside its original: folder:path=DIR.

    Reads safetensors folders, compressed-tensors, GPTQ, AWQ, GGUF files, LoRA adapters and
    packed24. Its pattern is counted, its bits are those that its files take, and all other
    differences from the original are in its record.

    path: folder or .gguf file; sha256: digest of its content, which a plan fills in.
    """

    name: ClassVar[str] = "folder"
    needs: ClassVar[Needs] = Needs.NOTHING
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="none", does=Does.IMPORTS, cost=Cost(), file=InputFile("path", required=True)
    )
    path: str = ""
    sha256: Annotated[
        str, Field(pattern="^([0-9a-f]{64})?$", description="64 hexadecimal digits")
    ] = ""

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        path, original = Path(self.path), Folder(job.source)
        if self.sha256 and content_digest(path) != self.sha256:
            raise UserError(f"{path} has changed since the run was planned: start the run again")
        checkpoint = open_checkpoint(path, original)
        reader = _Reader(checkpoint, original, job)
        writer = Writer(job.workdir / "folder", dtype=job.compute.stored)
        family = FAMILIES[checkpoint.config["model_type"]]
        writer.add_folded(dict.fromkeys(checkpoint), reader.read, family)
        out = writer.close()
        config = dict(checkpoint.config)
        if checkpoint.activations:
            config[ACTIVATIONS_KEY] = {
                "format": checkpoint.activations,
                "targets": list(checkpoint.rounded),
            }
        (out / "config.json").write_text(json.dumps(config, indent=2))
        notes: dict[str, Any] = {
            "folder": path.name,
            "format": checkpoint.form,
            "sha256": self.sha256,
            "differences": list_differences(checkpoint, original, reader.changed),
        }
        if reader.negative_zeros:
            notes["negative_zeros_stored"] = reader.negative_zeros
        if reader.rounded:
            notes["rounded_from"] = sorted(reader.rounded)
        return Outcome(
            out, frozenset(reader.changed), notes, storage=_count(checkpoint, job.targets)
        )


class _Reader:
    """Reader of a checkpoint's tensors, which notes how they differ from those of the original."""

    def __init__(self, checkpoint: Checkpoint, original: Folder, job: Job) -> None:
        self._checkpoint, self._original, self._job = checkpoint, original, job
        self._shapes, self._known, self._done = checkpoint.shapes(), set(original), 0
        self._linears = {
            f"{target}.weight" for target in find_targets(checkpoint.config, self._shapes)
        }
        self._targets = {f"{target}.weight" for target in job.targets}
        self.changed: list[str] = []
        """Tensors outside the targets whose values differ."""
        self.negative_zeros = 0
        """Number of weights that are -0.0. They are read as 0, because packed formats would keep
        them."""
        self.rounded: set[str] = set()
        """Number formats with values that the run's format cannot hold."""

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        tensor, kind = self._checkpoint.tensor(name), self._job.compute.stored
        if name in self._linears:
            zero = tensor == 0
            self.negative_zeros += int((tensor.signbit() & zero).sum())
            tensor = tensor.masked_fill(zero, 0)
        written = tensor.to(kind) if tensor.is_floating_point() else tensor
        if not same_values(written.to(tensor.dtype), tensor):
            self.rounded.add(dtype_name(tensor.dtype))
        if name in self._known - self._targets:
            old = self._original.tensor(name)
            if old.is_floating_point():
                old = old.to(kind)
            if not same_values(written, old):
                self.changed.append(name)
        self._done += 1
        self._job.progress.advance(self._done, len(self._shapes))
        return tensor


def _count(checkpoint: Checkpoint, targets: Iterable[str]) -> Storage:
    """Return the bytes that the targets take in the files."""
    shapes, sizes = checkpoint.shapes(), checkpoint.stored()
    names = [name for target in targets if (name := f"{target}.weight") in shapes]
    return Storage(
        weights=sum(math.prod(shapes[name]) for name in names),
        values=sum(sizes[name].values for name in names),
        others=sum(sizes[name].others for name in names),
        is_packed=checkpoint.is_packed,
        total=sum(size.values + size.others for size in sizes.values()),
        form=checkpoint.form,
    )
