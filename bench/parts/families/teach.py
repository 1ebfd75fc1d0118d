"""Derive an architecture's entry of families.toml from a model folder, and test it on that
folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import tomlkit
import torch
from torch import Tensor, nn

from bench.inputs import architecture, loading
from bench.inputs.model_config import REDIRECTS, ModelConfig
from bench.parts.families.probe import Probe, build
from bench.parts.families.structure import are_close, find_flow, find_width
from methods.contract.errors import UserError
from methods.contract.method import Compute, Job
from methods.contract.pattern import Pattern
from methods.model.blocks import find_blocks
from methods.model.experts import stores_in_out
from methods.model.families import FAMILIES, Family, Flow, Shape, Width
from methods.model.folder import HEADS, Folder, read_config
from methods.model.logits import Finish, head_of
from methods.model.safe_files import check_files, find_file
from methods.model.targets import find_targets
from methods.workshop.pruning.activations import watched
from methods.workshop.pruning.walk import Walk

TOKENS = (2, 16)
"""Number of sequences in a test, and of tokens in each."""


class Taught(NamedTuple):
    kind: str
    """The model_type of the architecture."""
    family: Family
    left_out: tuple[str, ...]
    """Parts of the entry that are left out, and why."""


def teach(folder: Path) -> Taught:
    """Return the entry of a folder's architecture, which passed `try_entry`, or raise UserError."""
    check_files(folder)
    config = read_config(folder)
    for name in REDIRECTS:
        # auto_map names Python code, which is never run
        if name != "auto_map":
            ModelConfig(config, str(folder)).require_absent(name)
    if find_file(folder, "adapter_config.json"):
        raise UserError(
            f"{folder} is an adapter of another model (adapter_config.json): merge it first"
        )
    # Refuse pickles and links to other folders.
    Folder(folder)
    if config.get("quantization_config") is not None:
        raise UserError(f"{folder} is already quantized: use a folder with its unquantized weights")
    kind = str(config.get("model_type"))
    with known_as(kind, None):  # an entry changes how a model is loaded
        family, left_out = derive(folder, config)
    with known_as(kind, family):
        try_entry(folder)
    return Taught(kind, family, left_out)


def derive(folder: Path, config: Mapping[str, Any]) -> tuple[Family, tuple[str, ...]]:
    """Derive the entry from the architecture in other sizes and one forward pass, or raise
    UserError.

    Returns also what is left out of it, and why.
    """
    probe = Probe(config)
    experts = [
        name for name, shape in probe.shapes.items() if len(shape) == 3 or ".experts." in name
    ]
    if experts:
        raise UserError(
            f"{folder} is a mixture of experts ({experts[0]}): write its entry by hand "
            "(docs/models.md)"
        )
    found = find_blocks(probe.shapes)
    if not found:
        raise UserError(
            f"{folder} has no decoder blocks to prune: no module list of it repeats the same "
            "linears"
        )
    path, length, linears = found[0]
    model = loading.load(folder, Compute())
    defaults, flags = probe.defaults(set(probe.values)), probe.flags()
    conditions = probe.conditions(flags, defaults)
    conditional = {tensor for tensors in conditions.values() for tensor in tensors}
    tensors = {
        n: probe.shape(n, s)
        for n, s in probe.shapes.items()
        if n not in conditional and not n.startswith(HEADS)
    }
    family = Family(
        blocks=path,
        linears=_in_order(model, path, linears),
        transposed=stores_in_out(model.get_submodule(f"{path}.0.{linears[0]}")),
        native="auto_map" in config,
        tied=bool(build(probe.without("tie_word_embeddings")).config.tie_word_embeddings),
        layers=next(
            k
            for k in ("n_layer", "num_hidden_layers")
            if probe.model.config.to_dict().get(k) == length
        ),
        positions=_positions(tensors),
        logits=_finish(model),
        whole=_whole(probe),
        defaults=defaults,
        flags=flags,
        outer=_outside(path, tensors),
        block=_of_block(path, tensors),
        when={
            condition: _of_block(path, of) | _outside(path, of)
            for condition, of in conditions.items()
        },
    )
    if family.layers in probe.canonical:
        family.defaults[family.layers] = probe.canonical[family.layers]  # type: ignore[index]
    width, without_width = find_width(family)
    flow, without_flow = find_flow(model, family, _tokens(model))
    left_out = tuple(filter(None, (without_width, without_flow)))
    return replace(family, width=width, flow=flow), left_out


def _of_block(path: str, tensors: Mapping[str, Shape]) -> dict[str, Shape]:
    prefix = f"{path}.0."
    return {
        name.removeprefix(prefix): shape
        for name, shape in tensors.items()
        if name.startswith(prefix)
    }


def _outside(path: str, tensors: Mapping[str, Shape]) -> dict[str, Shape]:
    return {name: shape for name, shape in tensors.items() if not name.startswith(path)}


def _positions(tensors: Mapping[str, Shape]) -> str:
    """Return the config value that is the number of learned positions, or ""."""
    sizes = " ".join(str(size) for shape in tensors.values() for size in shape)
    return next((name for name in ("n_positions", "max_position_embeddings") if name in sizes), "")


def _whole(probe: Probe) -> tuple[str, ...]:
    heads = "n_head" if "n_head" in probe.values else "num_attention_heads"
    if "num_key_value_heads" in probe.values:
        return (f"{heads} / num_key_value_heads",)
    width = "n_embd" if "n_embd" in probe.values else "hidden_size"
    return (f"{width} / {heads}",)


def _tokens(model: nn.Module) -> Tensor:
    size = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    return torch.randint(size, TOKENS, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _inputs(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the input of each module in a forward pass, in the order of the calls."""
    seen: dict[str, Tensor] = {}
    with watched(
        model, names, lambda name, x: seen.setdefault(name, x.flatten(0, -2).float().clone())
    ):
        model(input_ids=_tokens(model), use_cache=False)
    return seen


def _in_order(model: nn.Module, path: str, linears: tuple[str, ...]) -> tuple[str, ...]:
    """Return the linears of a block in the order of the forward pass. Refuse a linear that is a
    matrix of another module."""
    for linear in linears:
        module = model.get_submodule(f"{path}.0.{linear}")
        if not (isinstance(module, nn.Linear) or stores_in_out(module)):
            raise UserError(
                f"{path}.0.{linear} is a {type(module).__name__}, not a linear: write the entry "
                "by hand"
            )
    seen = _inputs(model, [f"{path}.0.{linear}" for linear in linears])
    return tuple(name.removeprefix(f"{path}.0.") for name in seen)


@torch.no_grad()
def _finish(model: Any) -> dict[str, str]:
    """Return the operation on the head's products, "cap" or "divisor", and its config value. Refuse
    other operations."""
    tokens = _tokens(model)
    want = model(input_ids=tokens, use_cache=False).logits
    got = model.get_output_embeddings()(model.base_model(input_ids=tokens, use_cache=False)[0])
    if torch.equal(got, want):
        return _unused_finish(model)
    for name, value in model.config.to_dict().items():
        if type(value) in (int, float) and value:
            for step in ("divisor", "cap"):
                if are_close(Finish(**{step: value}).apply(got), want):
                    return {step: name}
    if are_close(got, want):
        return _unused_finish(model)
    raise UserError(
        "the logits of this model are not its head's products, capped or divided: write the entry "
        "by hand"
    )


def _unused_finish(model: Any) -> dict[str, str]:
    """Return the same for a config value that this model leaves unset."""
    tokens = _tokens(model)
    for step, name in sorted(
        {(s, n) for family in FAMILIES.values() for s, n in family.logits.items()}
    ):
        if not hasattr(model.config, name):
            continue
        before, trial = getattr(model.config, name), 0.37
        plain = model(input_ids=tokens, use_cache=False).logits
        setattr(model.config, name, trial)
        changed = model(input_ids=tokens, use_cache=False).logits
        setattr(model.config, name, before)
        if are_close(Finish(**{step: trial}).apply(plain), changed):
            return {step: name}
    return {}


@contextmanager
def known_as(kind: str, family: Family | None) -> Iterator[None]:
    """Keep an entry in the table, or none, while the context is open."""
    before = FAMILIES.pop(kind, None)
    if family:
        FAMILIES[kind] = family
    try:
        yield
    finally:
        FAMILIES.pop(kind, None)
        if before:
            FAMILIES[kind] = before


def _append(x: Tensor, total: Tensor | None) -> Tensor:
    return x.clone() if total is None else torch.cat([total, x])


def try_entry(folder: Path) -> None:
    """Check shapes against the folder, and a walk that prunes nothing, bit for bit, against the
    forward pass."""
    opened = Folder(folder)
    architecture.check(opened)
    targets = find_targets(opened.config, opened.shapes())
    model = loading.load(folder, Compute())
    tokens = _tokens(model)
    want = _inputs(model, list(targets))
    job = Job(source=folder, pattern=Pattern.parse("dense"), targets=targets, calibration=tokens)
    for visit in Walk(model, job, _append):
        if not torch.equal(visit.stat, want[visit.name]):
            raise UserError(
                f"a walk gives {visit.name} other inputs than the forward pass of {folder}: write "
                "the entry by hand"
            )
    with torch.no_grad():
        states = model.base_model(input_ids=tokens, use_cache=False)[0]  # type: ignore[operator]
        if not are_close(head_of(model)(states), model(input_ids=tokens, use_cache=False).logits):
            raise UserError(
                f"the logits of {folder} are not those that its entry gives: write the entry by "
                "hand"
            )


def to_toml(taught: Taught) -> str:
    """Return an entry as text, without the fields that have their defaults, and what it leaves out
    as comments."""
    entry = _set_fields(taught.family, Family(blocks="", linears=()))
    if taught.family.width:
        entry["width"] = _set_fields(taught.family.width, Width(units=""))
    if taught.family.flow:
        entry["flow"] = _set_fields(taught.family.flow, Flow(final="", writers=(), norms={}))
    return tomlkit.dumps({taught.kind: entry}) + "".join(
        f"# left out: {words}\n" for words in taught.left_out
    )


def _set_fields(value: Any, empty: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from those of another."""
    values = {each.name: getattr(value, each.name) for each in fields(value)}
    return {name: own for name, own in values.items() if own != getattr(empty, name)}
