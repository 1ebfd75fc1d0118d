"""Export a model as packed48: a folder of stored weights whose linears have this codec."""

from __future__ import annotations

from pathlib import Path

from bench.formats import stored
from bench.formats.contract import ModelSource, Options
from bench.formats.stored_grids import describe_outer, require_linears
from bench.inputs import architecture
from bench.parts.packed48.codec import pack
from methods.contract.codec import FloatCodec, StoredWeight
from methods.contract.pattern import Pattern
from methods.model.folder import Folder, Writer
from methods.model.targets import find_targets, require_matches


def write(model: ModelSource, workdir: Path, options: Options) -> str:
    """Write a model whose linears are pairs:4:8. Return a sentence. Raise UserError if they are
    not."""
    source, codes = Folder(model.folder), stored.StoredFolder(model.folder)
    architecture.check(source)
    require_linears(source, "packed48")
    require_matches(options.exclude, find_targets(source.config, source.shapes()), model.name)
    include, kept_dense = model.targets
    targets = find_targets(source.config, source.shapes(), include, (*kept_dense, *options.exclude))
    packed: dict[str, StoredWeight] = {}
    for target in targets:
        own = codes.get(target)
        if own is None:
            own = StoredWeight(FloatCodec(), {"values": source.weight(target)})
        packed[target] = pack(own, f"{target}.weight")
    packed |= {name: codes[name] for name in codes if name not in packed}
    writer = Writer(workdir)
    for name in source:
        if name.removesuffix(".weight") not in packed:
            writer.add(name, source.tensor(name))
    writer.close()
    shapes = {name: source.shapes()[f"{name}.weight"] for name in packed}
    stored.write(workdir, packed, shapes, Pattern(), codes.outer)
    counted = stored.StoredFolder(workdir)
    said = f"{len(targets)} linears packed, {counted.count().all_bits:.4g} bits per weight"
    return said + describe_outer(codes)
