"""The method `folder`: a model that was pruned, quantized or trained by another tool."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from bench.formats.checkpoint import content_digest, open_checkpoint
from bench.formats.differences import list_differences, same_values
from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.experts import fold
from methods.families import FAMILIES
from methods.folder import Folder, Writer, dtype_name
from methods.info import Cost, MethodInfo
from methods.quantizing.stored import ACTIVATIONS_KEY, Stored
from methods.targets import find_targets


@dataclass(frozen=True)
class ModelFolder:
    """A model made elsewhere, beside its original: folder:path=DIR.

    Reads safetensors folders, compressed-tensors, GPTQ, AWQ, GGUF files, LoRA adapters and packed24. Its pattern is
    counted, its bits are those that its files take, and all other differences from the original are in its record.

    path: folder or .gguf file; sha256: digest of its content, which a plan fills in.
    """

    name: ClassVar[str] = "folder"
    needs: ClassVar[Needs] = Needs.NOTHING
    info: ClassVar[MethodInfo] = MethodInfo(paper="none", cost=Cost(), file="path", elsewhere=True)
    path: str = ""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$", description="64 hexadecimal digits")] = ""

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        del model
        path, original = Path(self.path), Folder(job.source)
        if self.sha256 and content_digest(path) != self.sha256:
            raise UserError(f"{path} has changed since the run was planned: start the run again")
        checkpoint = open_checkpoint(path, original)
        shapes, known = checkpoint.shapes(), set(original)
        weights = {f"{t}.weight" for t in find_targets(checkpoint.config, shapes)}
        chosen = {f"{t}.weight" for t in job.targets}
        writer = Writer(job.workdir / "folder", dtype=job.compute.stored)
        done, changed, negative, rounded = 0, [], 0, set()

        def read(name: str) -> Tensor:
            nonlocal done, negative
            tensor = checkpoint.tensor(name)
            if name in weights:
                zero = tensor == 0
                negative += int((tensor.signbit() & zero).sum())
                tensor = tensor.masked_fill(zero, 0)
            if tensor.is_floating_point() and not same_values(tensor.to(job.compute.stored).to(tensor.dtype), tensor):
                rounded.add(dtype_name(tensor.dtype))
            if name in known and name not in chosen:
                old = original.tensor(name)
                if not same_values(tensor.to(job.compute.stored), old.to(job.compute.stored)):
                    changed.append(name)
            done += 1
            job.progress.advance(done, len(shapes))
            return tensor

        family = FAMILIES[checkpoint.config["model_type"]]
        for name, tensor in fold(dict.fromkeys(checkpoint), read, family):
            writer.add(name, tensor)
        out = writer.close()
        config = {k: v for k, v in checkpoint.config.items() if k != "auto_map"}
        if checkpoint.activations:
            config[ACTIVATIONS_KEY] = {"bits": 8, "kind": checkpoint.activations, "targets": list(checkpoint.rounded)}
        (out / "config.json").write_text(json.dumps(config, indent=2))
        sizes = checkpoint.stored()
        count = sum(rows * columns for rows, columns in (shapes[name] for name in chosen & set(shapes)))
        values = sum(sizes[name].values for name in chosen & set(shapes))
        others = sum(sizes[name].others for name in chosen & set(shapes))
        stored = Stored(
            bits=8 * values / max(1, count),
            scale_bits=8,
            scales=others,
            activations=8 if checkpoint.activations else None,
            library=checkpoint.form,
            packed=checkpoint.is_packed,
            total_bytes=sum(size.values + size.others for size in sizes.values()),
        )
        notes: dict[str, Any] = {"folder": path.name, "format": checkpoint.form, "sha256": self.sha256}
        notes |= {"differences": list_differences(checkpoint, original, changed)}
        notes |= {"negative_zeros_stored": negative} if negative else {}
        notes |= {"rounded_from": sorted(rounded)} if rounded else {}
        return Outcome(out, changed=frozenset(changed), notes=notes | stored.notes())
