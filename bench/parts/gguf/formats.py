"""GGUF files for the catalog: format `gguf` of `bench export`, and reader of models made
elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from bench.formats.contract import Checkpoint, ModelFormat, ModelSource, Options, Reader
from bench.formats.shipping import Form, Server
from methods.model.folder import Folder

LLAMA_CPP = Server("llama.cpp", "llama-server -m {}", "{}.gguf")


class Gguf(ModelFormat):
    """A GGUF file, for llama.cpp, which makes K-quants and i-quants."""

    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "values": (
            "f16", "q8_0", "q4_0", "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m",
            "q5_k_s", "q5_k_m", "q6_k", "iq2_xxs", "iq2_xs", "iq3_xxs", "iq3_s", "iq3_m", "iq4_xs",
            "iq4_nl",
        ),
        "imatrix": (),
    }  # fmt: skip
    forms: ClassVar[tuple[Form, ...]] = (
        Form(
            (LLAMA_CPP,),
            r"q[2-6]_k",
            keeps=True,
            usual={"q6_k": 6.5625, "q5_k": 5.5, "q4_k": 4.5},
        ),
        Form((LLAMA_CPP,), r"int8(-rtn)?", 8.5, keeps=True),
        Form((LLAMA_CPP,), r"int4(-(rtn|gptq))?", 4.5, keeps=True),
        Form((LLAMA_CPP,), "", 16.0),
    )

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        from bench.parts.gguf import gguf_export

        return gguf_export.write(source, out, options.values, options.imatrix)

    @staticmethod
    def write_file(folder: Path, file: Path, kind: str) -> None:
        """Write a file to be timed: without vocabulary, and with all matrices of one kind."""
        from bench.parts.gguf import gguf_file

        gguf_file.write(folder, file, kind)


class GgufReader(Reader):
    """A GGUF file."""

    def owns(self, path: Path) -> bool:
        return path.suffix == ".gguf" and path.is_file()

    def open(self, path: Path, original: Folder | None) -> Checkpoint:
        from bench.parts.gguf.gguf_checkpoint import GgufCheckpoint

        return GgufCheckpoint(path)
