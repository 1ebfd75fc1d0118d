"""A model's dense and 2:4 versions, as folders and as ONNX files."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.catalog import registry
from bench.formats.contract import ModelSource, Options
from bench.inputs.model_facts import ModelFacts
from bench.system import digests
from bench.system.cache import cache_dir, in_use, temporary_folder
from bench.system.files import publish
from bench.system.source_digest import digest_source
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern
from methods.model.folder import Folder, Writer
from methods.model.targets import family_of

DENSE, SPARSE = "dense", "2:4"
"""The two sides of a comparison."""
PATTERN = Pattern.parse(SPARSE)


class ModelVersions:
    """A dense and a 2:4 version of a model for timings. sides: those that are timed.

    The 2:4 version of dense weights keeps the largest, or is a folder that a better method made.
    The dense version of 2:4 weights has a constant for each zero.
    """

    def __init__(
        self,
        model: ModelFacts,
        workdir: Path,
        sparse: ModelFacts | None = None,
        sides: tuple[str, ...] = (SPARSE, DENSE),
    ) -> None:
        self.model, self.workdir, self.sparse, self.sides = model, workdir, sparse, sides
        self.source = model.open()
        self.targets = model.linears
        if sparse:
            self._check(sparse)

    @cached_property
    def is_sparse(self) -> bool:
        return all(PATTERN.violations(self.source.weight(target)) == 0 for target in self.targets)

    def _check(self, sparse: ModelFacts) -> None:
        other = sparse.open()
        if self.is_sparse or other.shapes() != self.source.shapes():
            raise UserError(
                f"{sparse.folder} is no 2:4 version of {self.model.folder}: give a dense model "
                "and one made of it"
            )
        for target in self.targets:
            count = PATTERN.violations(other.weight(target))
            if count:
                raise UserError(
                    f"{sparse.folder} is not 2:4: {count} groups of {target} keep more than two "
                    "weights"
                )

    @property
    def method(self) -> str:
        """Return the method of the 2:4 version for the record."""
        if self.sparse:
            return "folder"
        return "unchanged" if self.is_sparse else "magnitude"

    def folder(self, side: str) -> Path:
        if side == SPARSE and self.sparse:
            return self.sparse.folder
        if (side == SPARSE) == self.is_sparse:
            return self.model.folder
        place = self.workdir / side.replace(":", "of")
        if not place.exists():
            self._write(place, _fill if self.is_sparse else _prune)
        return place

    def _write(self, place: Path, change: Callable[[Tensor], Tensor]) -> None:
        """Write the model with a changed weight in each target."""
        weights = {f"{target}.weight" for target in self.targets}

        def tensor(name: str) -> Tensor:
            value = self.source.tensor(name)
            return change(value) if name in weights else value

        writer = Writer(place)
        writer.add_folded(self.source, tensor, family_of(self.source.config))
        writer.close()
        (place / "config.json").write_text(json.dumps(self.source.config))

    def onnx(self, side: str, dtype: str) -> Path:
        """Return the ONNX file of a side: the export, or a copy with the other weights. Raise
        CheckFailed for other logits."""
        exported = self._export(dtype)
        if (side == SPARSE) == self.is_sparse:
            return exported
        file = self.workdir / f"{side.replace(':', 'of')}-{dtype}" / exported.name
        if not file.exists():
            file.parent.mkdir(parents=True)
            other = Folder(self.folder(side))
            self._onnx_format.replace_weights(exported, file, other.weight)
        return file

    @cached_property
    def _onnx_format(self) -> Any:
        """Format `onnx` of the catalog. Raise UserError if the part is not installed."""
        return registry.load(registry.lookup("exports", "onnx"))()

    def _export(self, dtype: str) -> Path:
        """Return the exported file. It is cached, because an export takes minutes."""
        source = digest_source(self._onnx_format.__module__)
        made_by = [source, torch.__version__, dtype]
        place = cache_dir() / "exports" / digests.of([self.model.digest, *made_by])[:32]
        with in_use(place.name):
            if not place.exists():
                model = ModelSource(self.model.name, self.model.folder, None, None)
                with temporary_folder("export") as workdir:
                    self._onnx_format.write(model, workdir, Options(dtype=dtype))
                    publish(workdir, place)
        return next(place.glob("*.onnx"))


def _prune(weight: Tensor) -> Tensor:
    # A file of small integers can have -0.0, which packed formats keep as a weight.
    return torch.where(PATTERN.keep(weight.float().abs()) & (weight != 0), weight, 0)


def _fill(weight: Tensor) -> Tensor:
    return torch.where(weight == 0, weight.abs().mean(), weight)
