"""Export a model folder as dense safetensors."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.formats.opening import find_reader, open_checkpoint
from bench.system.text import amount
from methods.model import low_rank_adapter
from methods.model.families import FAMILIES
from methods.model.folder import INDEX, Folder, Writer, read_config
from methods.model.targets import family_of


def write(folder: Path, workdir: Path) -> str:
    """Write safetensors, unpacked or copied, with low-rank terms beside them. Return a sentence."""
    if find_reader(folder):
        opened, writer = open_checkpoint(folder), Writer(workdir)
        family = FAMILIES.get(str(opened.config.get("model_type")))
        writer.add_folded(dict.fromkeys(opened), opened.tensor, family)
        writer.close()
        return f"{opened.form} unpacked to dense safetensors"
    family_of(read_config(folder))  # it refuses the integers of another format
    files, index = Folder(folder).files(), folder / INDEX
    for file in files:
        shutil.copyfile(file, workdir / file.name)
    if index.exists():
        shutil.copyfile(index, workdir / index.name)
    low_rank_adapter.copy(folder, workdir)
    if low_rank_adapter.is_beside(workdir):
        terms = f", and their low-rank terms in {low_rank_adapter.FOLDER}, which peft loads"
    else:
        terms = ""
    return f"{amount(len(files), 'file')} of dense safetensors{terms}"
