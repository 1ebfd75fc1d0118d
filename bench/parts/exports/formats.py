"""Formats of dense and stored weights, and of results. The format of a library is a part of its
own. Each imports its modules when it writes, because some need torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from bench.formats.checkpoint import QUANTIZATION_KEYS
from bench.formats.contract import (
    MODEL_CARD,
    ModelFormat,
    ModelResults,
    ModelSource,
    Options,
    ResultsFormat,
)
from bench.formats.shipping import NATIVE, TRANSFORMERS, VLLM, Form


class Dense(ModelFormat):
    """Dense safetensors, for transformers and vLLM."""

    takes_any: ClassVar[bool] = True
    forms: ClassVar[tuple[Form, ...]] = (Form((VLLM, TRANSFORMERS, NATIVE), ""),)

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.parts.exports import dense_folder

        said = dense_folder.write(source.folder, out)
        source.write_companions(out, without=QUANTIZATION_KEYS, also=[MODEL_CARD])
        return said


class Stored(ModelFormat):
    """The quantized tensors that the row counts."""

    forms: ClassVar[tuple[Form, ...]] = (Form((NATIVE,), r".+", keeps=True, packs=True),)

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.parts.exports import stored_folder

        said, config = stored_folder.write(source.folder, out)
        source.write_companions(out, config)
        return said


class EveryEvalEver(ResultsFormat):
    """Results for Every Eval Ever."""

    def documents(self, model: ModelResults, options: Options) -> Mapping[str, str]:
        from bench.parts.exports import every_eval_ever_export

        return every_eval_ever_export.documents(model)
