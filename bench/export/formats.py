"""Formats of `bench export`. Each imports its modules when it writes, because some need torch or
transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.export.contract import ModelFormat, ModelSource, Options, ResultsFormat
from bench.formats.checkpoint import QUANTIZATION_KEYS
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY

if TYPE_CHECKING:
    from bench.export.result_sets import ModelResults

MODEL_CARD = "README.md"


class Dense(ModelFormat):
    """Dense safetensors, for transformers and vLLM."""

    takes_any: ClassVar[bool] = True

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.export import dense_folder

        said = dense_folder.write(source.folder, out)
        source.write_companions(out, without=QUANTIZATION_KEYS, also=[MODEL_CARD])
        return said


class Stored(ModelFormat):
    """The quantized tensors that the row counts."""

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.export import stored_folder

        said, config = stored_folder.write(source.folder, out)
        source.write_companions(out, config)
        return said


class CompressedTensors(ModelFormat):
    """Quantized weights as vLLM stores them."""

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.export import compressed_folder, deployed

        said, config = compressed_folder.write(source.folder, out)
        source.write_companions(out, config, without=[ACTIVATIONS_KEY])
        return said + deployed.check("compressed-tensors", source, out)


class Gptq(ModelFormat):
    """Quantized weights in GPTQ's layout, for vLLM."""

    name: ClassVar[str] = "gptq"

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.export import deployed, gptq_folder
        from bench.formats.stored import StoredFolder

        config = gptq_folder.write(source.folder, out, self.name)
        said = (
            f"{len(StoredFolder(source.folder))} linears stored as {self.name}, read back bit for "
            "bit"
        )
        source.write_companions(out, config, without=[ACTIVATIONS_KEY])
        return said + deployed.check(self.name, source, out)


class Awq(Gptq):
    """Quantized weights in AWQ's layout, for vLLM."""

    name: ClassVar[str] = "awq"


class Gguf(ModelFormat):
    """A GGUF file, for llama.cpp, which writes the types that end in _k, _s, _m or _l."""

    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "values": (
            "f16",
            "q8_0",
            "q4_0",
            "q2_k",
            "q3_k_s",
            "q3_k_m",
            "q3_k_l",
            "q4_k_s",
            "q4_k_m",
            "q5_k_s",
            "q5_k_m",
            "q6_k",
        ),
        "imatrix": (),
    }

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.export import deployed

        return deployed.write_gguf(source, out, options.values, options.imatrix)


class Onnx(ModelFormat):
    """One graph with a KV cache."""

    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"dtype": ()}

    def check(self, options: Options) -> None:
        if options.values:
            raise UserError(
                f"--values {options.values} and --format onnx exclude each other: TensorRT has no "
                "2:4 kernel for products with Q/DQ nodes; leave --values out, or use --format "
                "packed24"
            )

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.export import onnx_model

        pattern = Pattern.parse(source.record.identity.pattern) if source.record else None
        said = onnx_model.write(source.folder, out, options.dtype, pattern, *source.targets)
        source.write_companions(out)
        return said


class EveryEvalEver(ResultsFormat):
    """Results for Every Eval Ever."""

    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"organization": ()}

    def documents(self, model: ModelResults, options: Options) -> Mapping[str, str]:
        from bench.export import every_eval_ever

        return every_eval_ever.documents(model, options.organization or "unknown")


class LmEval(ResultsFormat):
    """Results as lm-eval writes its own."""

    def documents(self, model: ModelResults, options: Options) -> Mapping[str, str]:
        from bench.export import lm_eval

        return lm_eval.documents(model)
