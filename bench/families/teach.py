"""Derive an architecture's entry of families.toml from a model folder, and try it on that folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.families.probe import Probe, build
from bench.inputs import architecture, loading
from bench.inputs.model_config import REDIRECTS, ModelConfig
from methods.blocks import find_blocks
from methods.contract import Compute, Job
from methods.errors import UserError
from methods.families import FAMILIES, Family, Shape
from methods.files import check_files, find_file
from methods.folder import HEADS, Folder, read_config
from methods.logits import Finish, head_of
from methods.pattern import Pattern
from methods.pruning.walk import Walk
from methods.targets import find_targets, stores_in_out

TOKENS = (2, 16)
"""Sequences of a trial, and tokens in each."""


def teach(folder: Path) -> tuple[str, Family]:
    """The model_type of a folder's architecture, and its entry, tried on the folder.

    Raises:
        UserError: transformers cannot build it, it is no stack of blocks of linears, or its entry does not hold.
    """
    check_files(folder)
    config = read_config(folder)
    for name in REDIRECTS:
        if name != "auto_map":  # which names code that is not run
            ModelConfig(config, str(folder)).absent(name)
    if find_file(folder, "adapter_config.json"):
        raise UserError(f"{folder} is an adapter of another model (adapter_config.json): merge it first")
    Folder(folder)  # no pickle, and nothing outside the folder
    if config.get("quantization_config") is not None:
        raise UserError(f"{folder} is already quantized: use a folder with its unquantized weights")
    kind = str(config.get("model_type"))
    family = derive(folder, config)
    with known_as(kind, family):
        try_entry(folder)
    return kind, family


def derive(folder: Path, config: Mapping[str, Any]) -> Family:
    """An entry, from the architecture built in other sizes and from one forward pass of the model itself.

    Raises:
        UserError: there is none.
    """
    probe = Probe(config)
    if experts := [name for name, shape in probe.shapes.items() if len(shape) == 3 or ".experts." in name]:
        raise UserError(
            f"{folder} is a mixture of experts ({experts[0]}), whose entry is written by hand (docs/models.md)"
        )
    found = find_blocks(probe.shapes)
    if not found:
        raise UserError(f"no module list of {folder} looks like decoder blocks, which this suite prunes")
    path, length, linears = found[0]
    model = loading.load(folder, Compute())
    defaults, conditions, flags = _values(probe)
    conditional = {tensor for tensors in conditions.values() for tensor in tensors}
    tensors = {n: probe.shape(s) for n, s in probe.shapes.items() if n not in conditional and not n.startswith(HEADS)}
    family = Family(
        blocks=path,
        linears=_in_order(model, path, linears),
        transposed=stores_in_out(model.get_submodule(f"{path}.0.{linears[0]}")),
        native="auto_map" in config,
        tied=bool(build(probe.without("tie_word_embeddings")).config.tie_word_embeddings),
        layers=next(k for k in ("n_layer", "num_hidden_layers") if probe.model.config.to_dict().get(k) == length),
        positions=_positions(tensors),
        logits=_finish(model),
        whole=_whole(probe),
        defaults=defaults,
        flags=flags,
        outer={n: s for n, s in tensors.items() if not n.startswith(path)},
        block=_of_block(path, tensors),
        when={
            c: _of_block(path, of) | {n: s for n, s in of.items() if not n.startswith(path)}
            for c, of in conditions.items()
        },
    )
    if family.layers in probe.canonical:
        family.defaults[family.layers] = probe.canonical[family.layers]  # type: ignore[index]
    return family


def _values(probe: Probe) -> tuple[dict[str, Any], dict[str, dict[str, Shape]], dict[str, bool]]:
    """Defaults, tensors under conditions, and flags."""
    defaults, flags = probe.defaults(set(probe.values)), probe.flags()
    return defaults, probe.conditions(flags, defaults), flags


def _of_block(path: str, tensors: Mapping[str, Shape]) -> dict[str, Shape]:
    prefix = f"{path}.0."
    return {name.removeprefix(prefix): shape for name, shape in tensors.items() if name.startswith(prefix)}


def _positions(tensors: Mapping[str, Shape]) -> str:
    """The value that a shape of learned positions has."""
    sizes = " ".join(str(size) for shape in tensors.values() for size in shape)
    return next((name for name in ("n_positions", "max_position_embeddings") if name in sizes), "")


def _whole(probe: Probe) -> tuple[str, ...]:
    heads = "n_head" if "n_head" in probe.values else "num_attention_heads"
    if "num_key_value_heads" in probe.values:
        return (f"{heads} / num_key_value_heads",)
    return (f"{'n_embd' if 'n_embd' in probe.values else 'hidden_size'} / {heads}",)


def _tokens(model: nn.Module) -> Tensor:
    size = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    return torch.randint(size, TOKENS, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _inputs(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """The input of each module in a forward pass, in the order in which they are called."""
    seen: dict[str, Tensor] = {}

    def listen(name: str) -> Any:
        return lambda _module, args: seen.setdefault(name, args[0].flatten(0, -2).float().clone())

    handles = []
    for name in names:
        hook = listen(name)
        handles.append(model.get_submodule(name).register_forward_pre_hook(lambda m, a, h=hook: (h(m, a), None)[1]))
    try:
        model(input_ids=_tokens(model), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _in_order(model: nn.Module, path: str, linears: tuple[str, ...]) -> tuple[str, ...]:
    """
    Raises:
        UserError: a matrix that is no linear.
    """
    for linear in linears:
        module = model.get_submodule(f"{path}.0.{linear}")
        if not (isinstance(module, nn.Linear) or stores_in_out(module)):
            raise UserError(f"{path}.0.{linear} is a {type(module).__name__}, not a linear: write the entry by hand")
    seen = _inputs(model, [f"{path}.0.{linear}" for linear in linears])
    return tuple(name.removeprefix(f"{path}.0.") for name in seen)


@torch.no_grad()
def _finish(model: Any) -> dict[str, str]:
    """What follows the head, by which value of the config.

    Raises:
        UserError: nothing that is known.
    """
    tokens = _tokens(model)
    want = model(input_ids=tokens, use_cache=False).logits
    got = model.get_output_embeddings()(model.base_model(input_ids=tokens, use_cache=False)[0])
    if torch.equal(got, want):
        return _unused_finish(model)
    for name, value in model.config.to_dict().items():
        if type(value) in (int, float) and value:
            for step in ("divisor", "cap"):
                if torch.allclose(Finish(**{step: value}).apply(got), want, rtol=1e-5, atol=1e-6):
                    return {step: name}
    if torch.allclose(got, want, rtol=1e-5, atol=1e-6):
        return _unused_finish(model)
    raise UserError("this model's logits are not its head's products, capped or divided: write the entry by hand")


def _unused_finish(model: Any) -> dict[str, str]:
    """A value by which the head's products would be capped or divided, and which this model does not set."""
    tokens = _tokens(model)
    for step, name in sorted({(s, n) for family in FAMILIES.values() for s, n in family.logits.items()}):
        if not hasattr(model.config, name):
            continue
        before, trial = getattr(model.config, name), 0.37
        plain = model(input_ids=tokens, use_cache=False).logits
        setattr(model.config, name, trial)
        changed = model(input_ids=tokens, use_cache=False).logits
        setattr(model.config, name, before)
        if torch.allclose(Finish(**{step: trial}).apply(plain), changed, rtol=1e-5, atol=1e-6):
            return {step: name}
    return {}


@contextmanager
def known_as(kind: str, family: Family) -> Iterator[None]:
    """An entry in the table for as long as the block lasts."""
    before = FAMILIES.get(kind)
    FAMILIES[kind] = family
    try:
        yield
    finally:
        del FAMILIES[kind]
        if before:
            FAMILIES[kind] = before


def try_entry(folder: Path) -> None:
    """Check that the entry is the folder's, and that a walk that prunes nothing reproduces the forward, bit for bit.

    Raises:
        UserError: it is not, or does not.
    """
    opened = Folder(folder)
    architecture.check(opened)
    targets = find_targets(opened.config, opened.shapes())
    model = loading.load(folder, Compute())
    tokens = _tokens(model)
    want = _inputs(model, list(targets))
    job = Job(source=folder, pattern=Pattern.parse("dense"), targets=targets, calibration=tokens)
    for visit in Walk(model, job, lambda x, total: x.clone() if total is None else torch.cat([total, x])):
        if not torch.equal(visit.stat, want[visit.name]):
            raise UserError(
                f"a walk gives {visit.name} other inputs than the forward of {folder}: write the entry by hand"
            )
    with torch.no_grad():
        states = model.base_model(input_ids=tokens, use_cache=False)[0]  # type: ignore[operator]
        if not torch.allclose(
            head_of(model)(states), model(input_ids=tokens, use_cache=False).logits, rtol=1e-5, atol=1e-6
        ):
            raise UserError(f"the logits of {folder} are not what its entry says: write the entry by hand")


def to_toml(kind: str, family: Family) -> str:
    """An entry as text."""
    plain, tables = [f"[{kind}]"], []
    for each in fields(Family):
        value = getattr(family, each.name)
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if value == default:
            continue
        if each.name == "when":
            for condition, tensors in value.items():
                key = condition if re.fullmatch(r"\w+", condition) else f'"{condition}"'
                tables += [f"[{kind}.when.{key}]", *(f'"{n}" = {_toml(s)}' for n, s in tensors.items())]
        elif isinstance(value, Mapping):
            lines = (f"{n if re.fullmatch(r'[A-Za-z0-9_]+', n) else _toml(n)} = {_toml(v)}" for n, v in value.items())
            tables += [f"[{kind}.{each.name}]", *lines]
        else:
            plain.append(f"{each.name} = {_toml(value)}")
    return "\n".join([*plain, *tables]) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value) if isinstance(value, int) else f'"{value}"'
