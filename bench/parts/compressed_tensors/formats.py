"""Format `compressed-tensors` of `bench export`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from bench.formats.contract import ModelFormat, ModelSource, Options
from bench.formats.shipping import TRANSFORMERS, VLLM, Form
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY


class CompressedTensors(ModelFormat):
    """Quantized weights as vLLM stores them."""

    forms: ClassVar[tuple[Form, ...]] = (
        Form(
            (VLLM, TRANSFORMERS),
            r"fp8|w8a8|nvfp4|mxfp4|mxfp8|llmcompressor-.*|auto-round",
            usual={"fp8": 8.0},
        ),
    )

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.parts.compressed_tensors import compressed_folder

        said, config = compressed_folder.write(source.folder, out)
        source.write_companions(out, config, without=[ACTIVATIONS_KEY])
        return said + compressed_folder.check(source, out)
