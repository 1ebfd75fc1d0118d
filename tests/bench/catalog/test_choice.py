"""Hyperparameters as typed: each is checked when it is read, before anything is loaded."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from pydantic import TypeAdapter

from bench.catalog import registry
from bench.catalog.choice import build, parse_method, parse_quantizer
from bench.catalog.declarations import CatalogEntry
from bench.catalog.entries import METHODS, QUANTIZERS
from bench.planning.recipes import recipes
from methods import Needs, UserError
from methods.contract.ranges import Fraction, Positive


def parse(name, *options):
    text = ":".join((name, *options))
    if name in QUANTIZERS:
        return parse_quantizer(text)
    return parse_method(text + (":from=wanda" if name == "dsnot" else ""))


@pytest.mark.parametrize(
    ("typed", "allowed"),
    [
        ("sparsegpt:damping=1.01", "between 0 and 1"),
        ("sparsegpt:damping=NaN", "a number between 0 and 1"),
        ("sparsegpt:damping=true", "a number between 0 and 1"),
        ("sparsegpt:damping=[1]", "a number between 0 and 1"),
        ("sparsegpt:block=0", "between 1 and 100000"),
        ("sparsegpt:block=1.5", "a whole number between 1 and 100000"),
        ("sparsegpt:mask_only=2", "true or false"),
        ("admm:rho=0", "above 0 and at most 100000"),
        ("cast:beta1=1", "at least 0 and below 1"),
        ("cast:beta1=much", "a number of at least 0 and below 1"),
        ("cast:lambda=-1", "a number between 0 and 100000 or auto"),
        ("cast:compile=maybe", "one of auto, on, off"),
        ("maskllm:file=3", "text"),
        ("maskllm:sha256=abc", "64 hexadecimal digits"),
        ("int4-rtn:group=0", "a whole number between 1 and 100000"),
    ],
)
def test_a_bad_value_is_refused_with_what_the_field_takes(typed, allowed):
    with pytest.raises(UserError) as fault:
        parse(*typed.split(":"))
    assert str(fault.value) == f"invalid {typed}: must be {allowed}"


def bounds(schema):
    """Yield a set of "minimum" and "maximum" for each number that a JSON schema allows."""
    for option in schema.get("anyOf", [schema]):
        if option.get("type") in ("number", "integer"):
            yield {key.removeprefix("exclusive").lower() for key in option if "imum" in key}


def test_every_number_of_every_method_and_quantizer_is_bounded_on_both_sides():
    entries = [*METHODS.values(), *QUANTIZERS.values()]
    fields = 0
    for kind in (registry.load(entry) for entry in entries if entry.target):
        for name, schema in TypeAdapter(kind).json_schema().get("properties", {}).items():
            for found in bounds(schema):
                assert found == {"minimum", "maximum"}, (kind, name)
                fields += 1
    assert fields > 100


def test_the_ends_of_a_range_are_in_it():
    for text in (
        "sparsegpt:damping=0", "sparsegpt:damping=1:block=4", "cast:lambda=auto:scales=0",
        "cast:lambda=0:grad_clip=0:warmup=1", "alps:rho=1e-4:steps=0", "admm:gradual=20",
        f"maskllm:sha256={'a' * 64}",
    ):  # fmt: skip
        assert parse(text).label == text


def test_fields_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match=r"^invalid admm: gradual=15 must be at most iterations=9$"):
        parse("admm", "iterations=9")
    assert parse("admm", "iterations=9", "gradual=9").config == {"iterations": 9, "gradual": 9}


def test_a_value_is_kept_in_the_type_of_its_field():
    config = parse("sparsegpt", "block=64.0", "damping=1").config
    assert config == {"block": 64, "damping": 1.0}
    assert list(map(type, config.values())) == [int, float]


@pytest.mark.parametrize("typed", ["name=x", "needs=0", "dampening=0.1"])
def test_an_unknown_field_is_refused_and_the_known_are_named(typed):
    with pytest.raises(UserError, match=r"^unknown field of sparsegpt .*(damping|block)"):
        parse("sparsegpt", typed)
    with pytest.raises(UserError, match=r"^magnitude has no field .*: it takes none$"):
        parse("magnitude", typed)


@dataclass(frozen=True)
class Settable:
    """A method whose name and needs are fields, as a plug-in may have them."""

    name: str = "settable"
    needs: Needs = Needs.NOTHING
    share: float = 0.5
    power: float = 1.0

    def apply(self, model, job): ...


@pytest.mark.parametrize("field", ["name", "needs"])
def test_what_a_method_says_of_itself_is_not_for_a_user_to_set(field):
    entry = CatalogEntry(target=f"{__name__}:Settable")
    with pytest.raises(UserError, match=f"^unknown field of settable '{field}': known: share"):
        build(entry, "settable", {field: "x"})
    assert build(entry, "settable", {"share": 0.25}).share == 0.25


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_of_a_plug_in_that_gives_no_range_is_finite(value):
    with pytest.raises(UserError, match=r"^invalid settable:power=.*must be a(n| finite)? ?number"):
        build(CatalogEntry(target=f"{__name__}:Settable"), "settable", {"power": value})


def test_what_recipes_and_presets_give_is_in_range():
    given = [(n, config) for recipe in recipes().values() for n, config in recipe.methods.items()]
    given += [(n, config) for n, entry in METHODS.items() for config in entry.presets.values()]
    assert len(given) > 10
    for name, config in given:
        method = build(registry.lookup("methods", name), name, config)
        assert {key: getattr(method, key) for key in config} == config


@dataclass(frozen=True)
class Complex:
    """A field type that has no JSON schema."""

    name: ClassVar[str] = "complex"
    needs: ClassVar[Needs] = Needs.NOTHING
    values: type = int

    def apply(self, model, job): ...


def test_a_plug_in_with_a_type_of_its_own_is_refused_in_words_too():
    with pytest.raises(UserError, match=r"^invalid complex:values=3: "):
        build(CatalogEntry(target=f"{__name__}:Complex"), "complex", {"values": 3})


@dataclass(frozen=True)
class Misspelled:
    """A field type whose name is not defined."""

    power: "Postive" = 1.0  # noqa: F821

    def apply(self, model, job): ...


@dataclass(frozen=True)
class Unchecked:
    """A field type that pydantic cannot check."""

    power: torch.Tensor | None = None

    def apply(self, model, job): ...


@pytest.mark.parametrize(
    ("kind", "why"),
    [("Misspelled", "name 'Postive' is not defined"), ("Unchecked", "Unable to generate .*Tensor")],
)
def test_a_field_whose_type_cannot_be_checked_is_refused_with_the_reason(kind, why):
    with pytest.raises(UserError, match=rf"^mine cannot be used: .*:{kind} \({why}[^.]*\)$"):
        build(CatalogEntry(target=f"{__name__}:{kind}"), "mine", {})


@dataclass(frozen=True)
class Contradictory:
    """A default out of its range."""

    name: ClassVar[str] = "contradictory"
    needs: ClassVar[Needs] = Needs.NOTHING
    share: Fraction = 0.5
    power: Positive = -1.0

    def apply(self, model, job): ...


def test_a_default_out_of_its_range_is_refused_and_a_value_in_range_is_not():
    entry = CatalogEntry(target=f"{__name__}:Contradictory")
    with pytest.raises(UserError, match=r"^invalid default .*:power=-1\.0: must be above 0"):
        build(entry, "contradictory", {"share": 0.25})
    assert build(entry, "contradictory", {"power": 2.0}).power == 2.0


@pytest.mark.parametrize(
    ("text", "twice"),
    [("sparsegpt:block=64:block=128", "block"), ("recon:from=wanda:from=sparsegpt", "from")],
)
def test_a_field_is_given_once(text, twice):
    with pytest.raises(UserError, match=f"invalid {text}: {twice} is given twice"):
        parse_method(text)
