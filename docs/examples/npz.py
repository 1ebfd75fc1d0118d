"""An export: the files that another program reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.formats.contract import ModelFormat, ModelSource, Options
from methods.model.folder import Folder


class Npz(ModelFormat):
    """A NumPy archive of all tensors."""

    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"dtype": ("float32", "float16")}

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        model = Folder(source.folder)
        dtype = options.dtype or "float32"
        tensors = {name: model.tensor(name).float().numpy().astype(dtype) for name in model}
        np.savez(out / "model.npz", **tensors)
        source.write_companions(out)  # config.json and tokenizer
        return f"{len(tensors)} tensors"
