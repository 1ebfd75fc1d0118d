"""Read a method or quantizer from the command line, check its settings, and build it."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import keyword
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from bench.catalog.declarations import CatalogEntry
from bench.catalog.registry import guarded, load, lookup, names
from bench.system.suggest import describe_unknown
from methods.contract import rules
from methods.contract.errors import UserError
from methods.contract.info import Does
from methods.contract.method import Method

if TYPE_CHECKING:
    from pydantic import TypeAdapter

DECIDES_NO_NUMBER = True


CONTRACT_FIELDS = ("name", "needs", "shares_calibration", "info")
"""Declarations of a method, which no user can set, even if a class has them as fields."""


OUTER = ("embed", "head")
"""Settings of every quantizer: the formats of the embedding and of the head."""
KEPT = "none"
"""Format of an embedding or a head that keeps the numbers of the model."""
DEFAULT_EMBEDDING = "int8"


@dataclass(frozen=True)
class Choice:
    """A typed method: NAME[:PRESET | :FIELD=VALUE]..., with `from=STAGE` or `from=STAGE+STAGE` for
    the stages before it.

    A setting of such a stage follows a slash: `recon:from=depth/drop=50%:epochs=2`.
    """

    name: str
    config: dict[str, Any]
    prior: str | None
    label: str
    outer: dict[str, str] = dataclasses.field(default_factory=dict)
    """Formats of the embedding and of the head, by the names in OUTER, if they do not keep
    theirs."""


def parse_method(text: str, kind: str = "methods") -> Choice:
    """Read a typed method, and check its settings. Raise UserError if a name, preset, field or
    value is invalid."""
    name, *options = text.split(":")
    entry = lookup(kind, name)
    config: dict[str, Any] = {}
    outer: dict[str, str] = {}
    prior = entry.after or None if kind == "methods" else None
    typed = [option.partition("=")[0] for option in options]
    twice = next((key for key in typed if typed.count(key) > 1), "")
    if twice:
        raise UserError(f"invalid {text}: {twice} is given twice")
    for option in options:
        key, is_field, value = option.partition("=")
        if not is_field:
            if key not in entry.presets:
                if not entry.presets:
                    raise UserError(f"{name} has no preset {key!r}")
                raise UserError(describe_unknown(f"preset of {name}", key, entry.presets))
            config |= entry.presets[key]
        elif key == "from":
            *before, last = value.split("+")
            stage = last.replace("/", ":")
            if before:
                stage += f":from={'+'.join(before)}"
            prior = parse_method(stage, kind).label
        elif kind == "quantizers" and key in OUTER:
            outer[key] = value
        else:
            # The field of `lambda`, a keyword of Python, is `lambda_`.
            field = key + "_" if keyword.iskeyword(key) else key
            config[field] = parse_value(value)
    if Does.REFINES in entry.does and not prior:
        raise UserError(rules.lacks_prior(name))
    file = entry.file.field if entry.file and entry.file.required else ""
    if Does.IMPORTS in entry.does and (prior or not config.get(file)):
        raise UserError(
            f"{name} is a model made elsewhere: name its folder, {name}:{file}=DIR, and no from="
        )
    if file and not config.get(file):
        raise UserError(f"{name} reads its settings from a file: name it, {name}:{file}=FILE")
    # A plug-in is built without settings, too: a class that no worker can build is refused before
    # the run.
    if config or entry.is_plugin:
        method = build(entry, name, config)
        config = {k: getattr(method, k) for k in config}
    return Choice(name, config, prior, text, outer)


def parse_quantizer(text: str) -> Choice | None:
    """Read a typed quantizer, as `parse_method`. Return None for "none". Refuse `from=`.

    Its label names the formats of the embedding and the head, typed or not. A label without them is
    that of a quantizer that keeps both, as in older records.
    """
    if text == "none":
        return None
    choice = parse_method(text, "quantizers")
    if choice.prior:
        raise UserError(
            f"invalid {text}: a quantizer always starts from the pruned model; leave "
            f"from={choice.prior} out"
        )
    if choice.name == "none" or Does.KEEPS_WEIGHTS in lookup("quantizers", choice.name).does:
        if choice.outer:
            raise UserError(
                f"invalid {text}: {choice.name} quantizes no weights; leave "
                f"{next(iter(choice.outer))}= out"
            )
        return choice
    embed = choice.outer.get("embed", DEFAULT_EMBEDDING)
    formats = {"embed": embed, "head": choice.outer.get("head", embed)}
    for name, value in formats.items():
        if value not in (KEPT, *names("embeddings")):
            known = [*names("embeddings"), KEPT]
            raise UserError(describe_unknown(f"format in {choice.name}:{name}=", value, known))
    own = [part for part in text.split(":") if part.partition("=")[0] not in OUTER]
    if set(formats.values()) != {KEPT}:
        own.append(f"embed={embed}")
    if formats["head"] != embed:
        own.append(f"head={formats['head']}")
    kept = {name: value for name, value in formats.items() if value != KEPT}
    return dataclasses.replace(choice, label=":".join(own), outer=kept)


def short_label(label: str, labels: Sequence[str]) -> str:
    """Return a quantizer's label without the default format of the embedding, unless another of
    these labels is then the same."""
    end = f":embed={DEFAULT_EMBEDDING}"
    short = label.removesuffix(end)
    alike = {other for other in labels if other.removesuffix(end) == short}
    return label if len(alike) > 1 else short


def as_typed(label: str) -> str:
    """Return what to type for a quantizer's label in a record, which may be older than the formats
    of embeddings."""
    name, *options = label.split(":")
    is_old = not any(option.startswith("embed=") for option in options)
    if label == "none" or not is_old:
        return label
    with contextlib.suppress(UserError):  # a package that is not installed
        if Does.KEEPS_WEIGHTS in lookup("quantizers", name).does:
            return label
    return f"{label}:embed={KEPT}"


def parse_value(text: str) -> Any:
    """Return the value of a typed field: JSON if it can be read as JSON, else text."""
    try:
        return json.loads(text)
    # RecursionError: JSON that is nested too deeply.
    except (ValueError, RecursionError):
        return text


def build(entry: CatalogEntry, name: str, config: dict[str, Any]) -> Method:
    """Build a method, and check its settings.

    Raises:
        UserError: it is not a frozen dataclass, or has no `apply(self, model, job)`; a field is
            unknown or missing, a value is out of range, or values contradict each other.
    """
    with guarded(entry):
        return _build(entry, name, config)


def _build(entry: CatalogEntry, name: str, config: dict[str, Any]) -> Method:
    from pydantic import PydanticUserError, ValidationError

    kind = load(entry)
    if not getattr(getattr(kind, "__dataclass_params__", None), "frozen", False):
        raise UserError(
            f"{name} cannot be used: {entry.target} must be a frozen dataclass "
            "(@dataclass(frozen=True))"
        )
    try:
        inspect.signature(kind.apply).bind(None, None, None)
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            f"{name} cannot be used: {entry.target} must have a method apply(self, model, job)"
        ) from None
    defaults = {
        f.name: f.default
        for f in dataclasses.fields(kind)
        if f.init and f.name not in CONTRACT_FIELDS
    }
    for key in config:
        if key not in defaults:
            known = [field.rstrip("_") for field in defaults]
            if not known:
                raise UserError(f"{name} has no field {key!r}: it takes none")
            raise UserError(describe_unknown(f"field of {name}", key, known))
    try:
        adapter = _adapter(kind)
    except (NameError, PydanticUserError) as fault:
        why = str(fault).partition(". ")[0]
        raise UserError(
            f"{name} cannot be used: pydantic cannot check the type of a field of {entry.target} "
            f"({why})"
        ) from None
    for key, value in config.items():
        # pydantic would take true as 1.
        if isinstance(value, bool) and not _takes_bool(kind, key):
            raise _invalid(name, key, config, adapter, "must not be true or false")
    # pydantic does not check defaults.
    values = {
        key: value for key, value in defaults.items() if value is not dataclasses.MISSING
    } | config
    try:
        method: Method = adapter.validate_python(values)
    except ValidationError as fault:
        first = fault.errors()[0]
        # The class itself raised it, about several fields.
        if not first["loc"]:
            said = first["msg"].removeprefix("Value error, ").removeprefix("invalid ")
            raise UserError(f"invalid {name}: {said}") from None
        if first["type"] == "missing":
            raise UserError(
                f"{name} needs {first['loc'][0]}: type {name}:{first['loc'][0]}=VALUE"
            ) from None
        key = str(first["loc"][0])
        owner = name if key in config else f"default {name}"
        raise _invalid(owner, key, values, adapter, first["msg"]) from None
    for key in config:
        value = getattr(method, key)
        if isinstance(value, float) and not math.isfinite(value):
            raise _invalid(name, key, config, adapter, "must be finite")
    return method


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    if not adapter.pydantic_complete:
        get_type_hints(kind)  # raises NameError with the name that is not defined
    return adapter


def unbounded_fields(kind: type) -> list[str]:
    """Return the numeric fields of a class that take a number of any size."""
    fields = _adapter(kind).json_schema().get("properties", {})
    limits = ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"})
    out = []
    for name, schema in fields.items():
        is_number = schema.get("type") in ("number", "integer")
        if is_number and any(limit.isdisjoint(schema) for limit in limits):
            out.append(name)
    return out


def _takes_bool(kind: type, key: str) -> bool:
    hint = get_type_hints(kind)[key]
    return not {bool, Any, object}.isdisjoint((hint, *get_args(hint)))


def _invalid(
    name: str, key: str, config: dict[str, Any], adapter: TypeAdapter[Any], fallback: str
) -> UserError:
    """Return an error with the typed value and the valid values, or `fallback` if the type has no
    JSON schema."""
    from pydantic.errors import PydanticInvalidForJsonSchema

    value = config[key]
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    try:
        allowed = f"must be {_allowed(adapter.json_schema()['properties'][key], value)}"
    except PydanticInvalidForJsonSchema:
        allowed = fallback
    return UserError(f"invalid {name}:{key.rstrip('_')}={text}: {allowed}")


def _allowed(schema: Mapping[str, Any], value: Any) -> str:
    """Return the valid values of a JSON schema in words; for a number out of range, only the
    range."""
    if "anyOf" in schema:
        return " or ".join(
            _allowed(option, "") for option in schema["anyOf"] if option.get("type") != "null"
        )
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "description" in schema:
        return str(schema["description"])
    kind = schema.get("type")
    if kind not in ("number", "integer"):
        return {"boolean": "true or false", "string": "text"}.get(str(kind), f"of type {kind}")
    limits = _range(schema)
    right_type = type(value) is int or (type(value) is float and math.isfinite(value))
    if limits and right_type and (kind == "number" or value == int(value)):
        return limits
    noun = "a whole number" if kind == "integer" else "a number"
    if str(value).lower().lstrip("+-") in ("inf", "infinity"):
        noun = "a finite number"
    if limits.startswith("at"):
        noun += " of"
    return f"{noun} {limits}".rstrip()


def _range(schema: Mapping[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f"between {schema['minimum']:g} and {schema['maximum']:g}"
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    return " and ".join(
        f"{text} {schema[limit]:g}" for limit, text in words.items() if limit in schema
    )


def parse_chain(text: str) -> list[Choice]:
    """Return the stages of a typed method. The first one refines no other."""
    choice = parse_method(text)
    return [*parse_chain(choice.prior), choice] if choice.prior else [choice]
