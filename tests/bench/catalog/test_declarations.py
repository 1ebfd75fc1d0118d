"""Declarations of a class, read from its source."""

import pytest

from bench.catalog import registry
from bench.catalog.declarations import Catalog, CatalogEntry, describe
from bench.catalog.entries import METHODS
from bench.planning import method_cost
from methods.contract.method import Needs
from methods.contract.rules import CalibratedBy, TurnsBasis, WholeGroups


def classes():
    """Those of trackers need other packages."""
    sections = {kind: s for kind, s in registry.SECTIONS.items() if kind != "trackers"}
    for section in (s for s in sections.values() if s.of_classes):
        yield from ((name, entry) for name, entry in section.items() if entry.target)


def fields_named_by(entry):
    """The fields whose values a chain asks for."""
    yield from (field for part in entry.removes for field in part.fields)
    yield from (entry.adds.amount, entry.adds.rounded) if entry.adds else ()
    yield from (entry.file.field,) if entry.file else ()
    yield from (rule.field for rule in entry.rules if isinstance(rule, TurnsBasis | WholeGroups))
    for rule in entry.rules:
        yield from rule.fields if isinstance(rule, CalibratedBy) else ()


def test_the_source_says_what_the_class_says():
    for name, entry in classes():
        kind = registry.load(entry)
        declared = describe(entry.target, kind)
        assert getattr(kind, "name", name) == name
        assert entry.about, name
        assert entry == declared, name
        for field in fields_named_by(entry):
            assert entry.defaults.get(field) == getattr(kind, field), (name, field)
        assert bool(entry.environment) == (Needs.ISOLATED in getattr(kind, "needs", Needs.NOTHING))


@pytest.mark.parametrize("name", METHODS)
def test_each_method_states_its_source_and_its_cost(name):
    entry = METHODS[name]
    assert (entry.paper == "none") == (entry.year is None)
    assert entry.trains == bool(entry.cost.training)
    assert ("calibration" in entry.needs_with({})) == bool(entry.cost.passes)
    assert method_cost.describe(entry)


def test_a_catalog_has_entries_without_a_class_too():
    none = CatalogEntry(target="", about="nothing")
    catalog = Catalog({"none": none, "wanda": "baselines.wanda:Wanda"})
    assert catalog["none"] is none and catalog["wanda"] == METHODS["wanda"]
    assert list(catalog) == ["none", "wanda"] and len(catalog) == 2


def test_a_method_needs_calibration_text_only_with_the_field_that_says_so():
    assert METHODS["rotate"].needs_with({"seed": 1}) == ()
    assert METHODS["rotate"].needs_with({"steps": 3}) == ("calibration",)
