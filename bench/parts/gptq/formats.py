"""Formats `gptq` and `awq` of `bench export`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from bench.formats.contract import ModelFormat, ModelSource, Options
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY


class Gptq(ModelFormat):
    """Quantized weights in GPTQ's layout, for vLLM."""

    name: ClassVar[str] = "gptq"

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.parts.gptq import gptq_folder

        said, config = gptq_folder.write(source.folder, out, self.name)
        source.write_companions(out, config, without=[ACTIVATIONS_KEY])
        return said + gptq_folder.check(self.name, source, out)


class Awq(Gptq):
    """Quantized weights in AWQ's layout, for vLLM."""

    name: ClassVar[str] = "awq"
