"""Hyperparameters as typed: each is checked when it is read, before anything is loaded."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import pytest

from bench.catalog import registry
from bench.catalog.choice import build, parse_method, parse_quantizer
from bench.catalog.entries import METHODS, QUANTIZERS, Entry
from bench.planning.recipes import recipes
from helpers import runs
from methods import Needs, UserError


class Range(NamedTuple):
    """What a field takes, in the words of the error: its type, its limits, and values of that type beyond them."""

    type: str
    limits: str = ""
    beyond: tuple = ()

    @property
    def full(self):
        return f"{self.type}{' of' if self.limits.startswith('at') else ''} {self.limits}".strip()


FRACTION = Range("a number", "between 0 and 1", (-0.01, 1.01, 2))
BETA = Range("a number", "at least 0 and below 1", (-0.1, 1))
POSITIVE = Range("a number", "above 0 and at most 100000", (0, -1e-9, 100001))
NOT_NEGATIVE = Range("a number", "between 0 and 100000", (-1e-9, 1e300))
COUNT = Range("a whole number", "between 1 and 100000", (0, -4, 100001))
COUNT_OR_ZERO = Range("a whole number", "between 0 and 100000", (-1, 10**30))
FLAG = Range("true or false", "", (2, 0.5))

SETTINGS = {
    "lr": Range("a number", "between 0 and 10", (-1e-9, 10.1)),
    "warmup": FRACTION,
    "final_lr_ratio": FRACTION,
    "beta1": BETA,
    "beta2": BETA,
    "eps": POSITIVE,
    "grad_clip": NOT_NEGATIVE,
    "eta": FRACTION,
    "temperature": POSITIVE,
    "recompute": FLAG,
    "compile": Range("one of auto, on, off", "", ("maybe",)),
}
SPARSEGPT = {"damping": FRACTION, "block": COUNT}
GROUP = {"group": COUNT}
FIELDS = {
    "dense": {},
    "magnitude": {},
    "wanda": {},
    "sparsegpt": SPARSEGPT | {"mask_only": FLAG},
    "llmcompressor-sparsegpt": SPARSEGPT,
    "llmcompressor-wanda": {},
    "sparseml-sparsegpt": SPARSEGPT,
    "sparseml-magnitude": {},
    "ria": {"power": NOT_NEGATIVE},
    "dsnot": {
        "cycles": COUNT,
        "threshold": NOT_NEGATIVE,
        "power": NOT_NEGATIVE,
        "part": Range("one of attention, all", "", ("mlp",)),
    },
    "admm": {"iterations": COUNT, "gradual": COUNT_OR_ZERO, "rho": POSITIVE, "damping": FRACTION},
    "alps": {
        "rho": Range("a number", "between 0.0001 and 100000", (0, 9e-5, 1e6)),
        "damping": FRACTION,
        "iterations": COUNT,
        "steps": COUNT_OR_ZERO,
    },
    "cast": SETTINGS
    | {
        "lambda": Range("a number between 0 and 100000 or auto", "", (-1e-9, 1e6)),
        "lambda_scale": POSITIVE,
        "refresh": COUNT,
        "scales": COUNT_OR_ZERO,
        "fixed": FLAG,
        "decoupled": FLAG,
        "mask": Range("one of magnitude, wanda", "", ("ria",)),
        "kernel": Range("one of auto, reference, foreach, fused", "", ("cuda",)),
    },
    "recon": {
        "target": Range("one of dense, own-input", "", ("both",)),
        "epochs": COUNT_OR_ZERO,
        "batch": COUNT,
        "lr": SETTINGS["lr"],
        "beta1": BETA,
        "beta2": BETA,
        "normalize": FLAG,
        "massive": NOT_NEGATIVE,
        "norms": FLAG,
    },
    "elsa": SETTINGS
    | {
        "lambda": NOT_NEGATIVE,
        "schedule": Range("one of cosine, constant", "", ("linear",)),
        "interval": COUNT,
        "projection": Range("one of momentum, identity", "", ("gradient",)),
    },
    "dense-ft": SETTINGS,
    "retrain": SETTINGS,
    "finetune": SETTINGS | {"rank": COUNT_OR_ZERO, "alpha": POSITIVE},
    "maskllm": SETTINGS
    | {
        "decay": NOT_NEGATIVE,
        "alpha": NOT_NEGATIVE,
        "kappa": POSITIVE,
        "kappa_end": POSITIVE,
        "tau": POSITIVE,
        "tau_end": POSITIVE,
        "lambda": NOT_NEGATIVE,
        "file": Range("text", "", (3,)),
        "sha256": Range("64 hexadecimal digits", "", ("abc", "g" * 64)),
    },
    "proxsparse": SETTINGS | {"lambda": NOT_NEGATIVE},
    "sr-ste": SETTINGS | {"decay": NOT_NEGATIVE, "refresh": COUNT},
    "ast": SETTINGS | {"decay": NOT_NEGATIVE, "refresh": COUNT},
    "int8": {},
    "w8a8": {},
    "fp8": {},
    "int4-rtn": GROUP,
    "int4-gptq": GROUP | {"damping": FRACTION, "act_order": FLAG},
    "nf4": GROUP,
    "int3-rtn": GROUP,
    "hqq": GROUP,
    "llmcompressor-gptq": GROUP,
    "torchao-int4": GROUP,
}
"""Every field of every method and quantizer."""


def bad(field, allowed):
    """Values as typed, each with what the error says it must be."""
    for value in allowed.beyond:
        text = value if isinstance(value, str) else json.dumps(value)
        optional = field == "group"  # a choice of types: then the type is always said
        yield text, allowed.full if optional else allowed.limits or allowed.type
    if "number" in allowed.type:
        yield from ((text, allowed.full) for text in ("NaN", "nan", "much", "true", "[1]"))
    if "whole" in allowed.type:
        yield "1.5", allowed.full


KINDS = {"methods": METHODS, "quantizers": QUANTIZERS}


def parse(name, *options):
    text = ":".join((name, *options))
    if name in QUANTIZERS:
        return parse_quantizer(text)
    return parse_method(text + (":from=wanda" if name == "dsnot" else ""))


def test_the_table_has_every_field_of_every_method_and_quantizer():
    classes = {n: registry.load(e) for entries in KINDS.values() for n, e in entries.items() if e.target}

    assert {n: {f.name.rstrip("_") for f in dataclasses.fields(c)} for n, c in classes.items()} == {
        n: set(fields) for n, fields in FIELDS.items()
    }


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in FIELDS.items() for field in fields])
def test_bad_values_are_refused_with_what_the_field_takes(name, field):
    values = list(bad(field, FIELDS[name][field]))

    assert values
    for value, allowed in values:
        with pytest.raises(UserError) as fault:
            parse(name, f"{field}={value}")
        assert str(fault.value) == f"invalid {name}:{field}={value}: must be {allowed}"


@pytest.mark.parametrize(
    "text",
    [
        "sparsegpt:damping=0",
        "sparsegpt:damping=1:block=4",
        "cast:lambda=0:grad_clip=0:warmup=1",
        "cast:lambda=auto:scales=0",
        "alps:rho=1e-4:steps=0",
        "admm:gradual=20",
        "maskllm:sha256=" + "a" * 64,
    ],
)
def test_the_ends_of_a_range_are_in_it(text):
    assert parse(text).label == text


def test_an_infinite_number_is_refused_where_nothing_else_bounds_it():
    for value in ("Infinity", "inf"):
        with pytest.raises(
            UserError, match=f"^invalid ria:power={value}: must be a finite number between 0 and 100000$"
        ):
            parse("ria", f"power={value}")


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
    with pytest.raises(UserError, match=r"^wanda has no field .*: it takes none$"):
        parse("wanda", typed)


@dataclass(frozen=True)
class Settable:
    """A method whose name and needs are fields, as a plug-in may have them."""

    name: str = "settable"
    needs: Needs = Needs.NOTHING
    share: float = 0.5
    power: float = 1.0


@pytest.mark.parametrize("field", ["name", "needs"])
def test_what_a_method_says_of_itself_is_not_for_a_user_to_set(field):
    entry = Entry(f"{__name__}:Settable")

    with pytest.raises(UserError, match=f"^unknown field of settable '{field}': known: share, power$"):
        build(entry, "settable", {field: "x"})
    assert build(entry, "settable", {"share": 0.25}).share == 0.25


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_of_a_plug_in_that_gives_no_range_is_finite(value):
    with pytest.raises(UserError, match=r"^invalid settable:power=.*must be a(n| finite)? ?number"):
        build(Entry(f"{__name__}:Settable"), "settable", {"power": value})


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


def test_a_plug_in_with_a_type_of_its_own_is_refused_in_words_too():
    with pytest.raises(UserError, match=r"^invalid complex:values=3: "):
        build(Entry(f"{__name__}:Complex"), "complex", {"values": 3})


def test_from_the_command_line_nothing_is_loaded(tmp_path):
    """Exit code 2 and one sentence; no model, no tokenizer and no library of other stages is imported."""
    code = """
import sys
from bench.cli.main import main
import methods.folder
methods.folder.Folder.__init__ = None
sys.argv = ["bench", "run", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    loaded = {"transformers", "datasets", "lm_eval", "torch.distributed.checkpoint"} & set(sys.modules)
    sys.exit(f"loaded {loaded}" if loaded else end.code)
"""
    for method, reason in (
        ("sparsegpt:damping=2", "must be between 0 and 1"),
        ("cast:beta1=1", "must be at least 0 and below 1"),
    ):
        command = [sys.executable, "-c", code, *map(str, runs.flags(tmp_path / "r")), "--methods", method]
        done = subprocess.run(command, capture_output=True, text=True, check=False)

        assert done.returncode == 2, done.stderr
        assert done.stderr == f"bench: invalid {method}: {reason}\n"
        assert not (tmp_path / "r").exists()
