"""A method or quantizer as typed, checked and built."""

from __future__ import annotations

import json
import keyword
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.catalog.registry import Entry, load, lookup
from bench.system.suggest import describe_unknown
from methods.errors import UserError

if TYPE_CHECKING:
    from methods.contract import Method


@dataclass(frozen=True)
class Choice:
    """A method as typed: NAME[:preset | :field=value]..., `from=` naming the stage it refines."""

    name: str
    config: dict[str, Any]
    prior: str | None
    label: str


def parse_method(text: str, kind: str = "methods") -> Choice:
    """Read a method as typed and check its fields against the class's own.

    Raises:
        UserError: unknown name, preset or field, a value of the wrong type, or nothing to refine.
    """
    name, *options = text.split(":")
    entry = lookup(kind, name)
    config: dict[str, Any] = {}
    prior = entry.prior or None
    for option in options:
        key, is_field, value = option.partition("=")
        if not is_field:
            if key not in entry.presets:
                raise UserError(
                    describe_unknown(f"preset of {name}", key, entry.presets)
                    if entry.presets
                    else f"{name} has no preset {key!r}"
                )
            config |= entry.presets[key]
        elif key == "from":
            prior = parse_method(value, kind).label
        else:
            config[_field(key)] = _scalar(value)
    if entry.refines and not prior:
        raise UserError(f"{name} refines a pruned model: name what prunes it, for example {name}:from=wanda")
    if config:
        method = build(entry, name, config)
        config = {k: getattr(method, k) for k in config}
    return Choice(name, config, prior, text)


def parse_quantizer(text: str) -> Choice | None:
    """Read a quantizer as typed; None for "none".

    Raises:
        UserError: as `parse`; or it names a stage to start from, which is not its to choose.
    """
    if text == "none":
        return None
    choice = parse_method(text, "quantizers")
    if choice.prior:
        raise UserError(f"{text}: a quantizer starts from the model that was pruned; leave from={choice.prior} out")
    return choice


def _field(key: str) -> str:
    """`lambda` is a field of CAST and a word of Python."""
    return key + "_" if keyword.iskeyword(key) else key


def _scalar(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def build(entry: Entry, name: str, config: dict[str, Any]) -> Method:
    """The method itself, its fields checked.

    Raises:
        UserError: no frozen dataclass, a field it does not have, or a value of the wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    kind = load(entry)
    if not getattr(getattr(kind, "__dataclass_params__", None), "frozen", False):
        raise UserError(f"{name} cannot be used: {entry.target} must be a frozen dataclass (@dataclass(frozen=True))")
    fields = set(getattr(kind, "__dataclass_fields__", {}))
    for key in config:
        if key not in fields:
            raise UserError(
                describe_unknown(f"field of {name}", key, fields)
                if fields
                else f"{name} has no field {key!r}: it takes none"
            )
    try:
        method: Method = TypeAdapter(kind).validate_python(config)
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{name}:{where}={first['input']!r} will not do: {first['msg']}") from None
    return method


def parse_chain(text: str) -> list[Choice]:
    """The stages of a method as typed, the one it refines first."""
    choice = parse_method(text)
    return [*parse_chain(choice.prior), choice] if choice.prior else [choice]
