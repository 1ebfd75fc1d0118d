"""Format `onnx` of `bench export`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.formats.contract import ModelFormat, ModelSource, Options
from bench.formats.shipping import Form, Server
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern

if TYPE_CHECKING:
    from torch import Tensor

    from bench.parts.onnx.onnx_file import OnnxFile

TENSORRT = Server("tensorrt", "trtexec --onnx={}/model.onnx --stronglyTyped --sparsity=enable")


class Onnx(ModelFormat):
    """One graph with a KV cache."""

    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"dtype": ()}
    forms: ClassVar[tuple[Form, ...]] = (Form((TENSORRT,), "", 16.0),)

    def check(self, options: Options) -> None:
        if options.values:
            raise UserError(
                f"--values {options.values} and --format onnx exclude each other: TensorRT has no "
                "2:4 kernel for products with Q/DQ nodes; leave --values out, or use --format "
                "packed24"
            )

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.parts.onnx import onnx_model

        pattern = Pattern.parse(source.record.identity.pattern) if source.record else None
        said = onnx_model.write(source.folder, out, options.dtype, pattern, *source.targets)
        source.write_companions(out)
        return said

    @staticmethod
    def open_file(path: Path) -> OnnxFile:
        """Open an ONNX file from anywhere for `bench verify`."""
        from bench.parts.onnx.onnx_file import OnnxFile

        return OnnxFile(path)

    @staticmethod
    def replace_weights(path: Path, out: Path, weight_of: Callable[[str], Tensor]) -> None:
        """Write the graph of a file with other weights. weight_of: from a linear's name to a
        matrix [out, in]."""
        from bench.parts.onnx import onnx_file

        onnx_file.replace_weights(path, out, weight_of)
