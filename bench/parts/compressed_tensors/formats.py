"""Format `compressed-tensors` of `bench export`."""

from __future__ import annotations

from pathlib import Path

from bench.formats.contract import ModelFormat, ModelSource, Options
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY


class CompressedTensors(ModelFormat):
    """Quantized weights as vLLM stores them."""

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.parts.compressed_tensors import compressed_folder

        said, config = compressed_folder.write(source.folder, out)
        source.write_companions(out, config, without=[ACTIVATIONS_KEY])
        return said + compressed_folder.check(source, out)
