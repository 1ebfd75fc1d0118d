"""Export the stored weights of a quantized model: what was counted, and nothing else.
`folder:path=DIR` reads it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.formats import stored
from bench.formats.checkpoint import QUANT_METHOD
from bench.formats.stored_grids import describe_outer
from methods.contract.errors import UserError
from methods.model.folder import Folder, Writer


def write(folder: Path, workdir: Path) -> tuple[str, dict[str, Any]]:
    """Write a quantized model folder with the stored weights in place of its dense ones.

    Return a sentence, and keys of config.json. Raise UserError if the folder has no stored weights.
    """
    source, weights = Folder(folder), stored.StoredFolder(folder)
    if not weights.targets:
        raise UserError(
            f"{folder} has no stored weights: name the record of a quantized row, or use --format "
            "hf"
        )
    writer = Writer(workdir)
    for name in source:
        if name.removesuffix(".weight") not in weights:
            writer.add(name, source.tensor(name))
    writer.close()
    stored.copy(folder, workdir)
    storage = weights.count()
    said = f"{len(weights.targets)} linears as {storage.form}, "
    said += f"{storage.all_bits:.4g} bits per weight{describe_outer(weights)}"
    return said, {"quantization_config": {"quant_method": QUANT_METHOD}}
