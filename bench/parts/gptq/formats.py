"""Formats `gptq` and `awq` of `bench export`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

from bench.formats.contract import ModelFormat, ModelSource, Options
from bench.formats.shipping import TRANSFORMERS, VLLM, Form, Shapes
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY

SCALE_BYTES, INDEX_BYTES = 2, 4
DEFAULT_GROUP = 128


def added_to_awq(quantizer: str, shapes: Shapes) -> float:
    """Return the bytes of the zero points, and of the scales that all linears get so that they have
    the smallest group of the row."""
    name, *settings = quantizer.split(":")
    bits = 8 if name.startswith("int8") else 4
    wanted = next((int(s.removeprefix("group=")) for s in settings if s.startswith("group=")), 0)
    if bits == 8 and not wanted:
        return sum(shape[0] * bits / 8 for shape in shapes)
    own = {shape[1]: math.gcd(shape[1], wanted or DEFAULT_GROUP) for shape in shapes}
    group = min(own.values())
    added = 0.0
    for out, width in shapes:
        groups = width // group
        added += out * groups * bits / 8 + SCALE_BYTES * out * (groups - width // own[width])
    return added


def added_to_gptq(quantizer: str, shapes: Shapes) -> float:
    """Return the bytes that AWQ's files add, and those of the group of each input."""
    return added_to_awq(quantizer, shapes) + sum(INDEX_BYTES * width for _, width in shapes)


class Gptq(ModelFormat):
    """Quantized weights in GPTQ's layout, for vLLM."""

    name: ClassVar[str] = "gptq"
    forms: ClassVar[tuple[Form, ...]] = (
        Form(
            (VLLM, TRANSFORMERS),
            r"int[48](-(rtn|gptq|searched))?",
            floats=16,
            usual={"int8": 8.0, "int4-gptq": 4 + 16 / DEFAULT_GROUP},
            added=added_to_gptq,
        ),
    )

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.parts.gptq import gptq_folder

        said, config = gptq_folder.write(source.folder, out, self.name)
        source.write_companions(out, config, without=[ACTIVATIONS_KEY])
        return said + gptq_folder.check(self.name, source, out)


class Awq(Gptq):
    """Quantized weights in AWQ's layout, for vLLM."""

    name: ClassVar[str] = "awq"
    forms: ClassVar[tuple[Form, ...]] = (
        Form((VLLM, TRANSFORMERS), r"int4-awq", floats=16, added=added_to_awq),
    )
