"""The result of a measure becomes a record that can be read again, or a failed record."""

import numpy as np
import pytest
import torch

from bench import api
from bench.execution import measure
from bench.execution.new_record import failed_record
from bench.measures.contract import Readings
from bench.results import metrics
from bench.results.record import Item, Reading
from bench.results.record_check import check_record
from bench.results.store import Store
from helpers import runs
from methods.contract.errors import Diverged, Skipped

BITS = Reading("bits_per_weight", 9.0, metrics.find("bits_per_weight").unit, "lower")
COUNTS = {"parameters": 8.0, "bytes": 9.0, "sparsity": 1.0, "bytes_packed": 9.0}
SIZE = tuple(Reading(*one) for one in COUNTS.items())
ITEMS = tuple(Item(str(i), str(i), 1.0, 1.0) for i in range(4))


@pytest.fixture
def measurement(tmp_path, cache):
    spec = runs.small(tmp_path / "r", methods=("magnitude",), measures=("size",))
    return api.plan(spec).measurements[0]


def record_of(measurement, readings, monkeypatch):
    participant = measure.Participant(readings=readings, shares=True)
    monkeypatch.setattr(measure, "_read", lambda *_: [participant])
    ((record, items),) = measure.measure([measurement], None, None)
    return record, items


@pytest.mark.parametrize(
    ("readings", "status"),
    [
        (Readings((BITS, *SIZE), items=ITEMS), "ok"),
        (Readings((BITS, *SIZE), items=ITEMS, notes={"mask": np.ones(3)}), "failed"),
        (Readings((BITS._replace(unit="%"), *SIZE), items=ITEMS), "failed"),
        (Readings((BITS, *SIZE), items=ITEMS + ITEMS[:1]), "failed"),
        (
            Readings((BITS, *SIZE), items=(*ITEMS, Item("x", "x", 1.0, 1.0, {"more": 1.0}))),
            "failed",
        ),
    ],
    ids=["good", "a note that is no JSON", "a wrong unit", "an item twice", "some columns"],
)
def test_what_readers_would_refuse_is_failed(readings, status, measurement, monkeypatch, tmp_path):
    record, items = record_of(measurement, readings, monkeypatch)

    assert record.status == status, record.reason
    store = Store(tmp_path / "r")
    store.write(record, items)
    assert [r.status for r in store] == [status]


def test_settings_of_torch_that_a_measure_leaves_behind_do_not_reach_the_next(
    measurement, monkeypatch
):
    def read(*_):
        torch.set_default_dtype(torch.float64)
        raise ValueError

    monkeypatch.setattr(measure, "_read", read)
    measure.measure([measurement], None, None)

    assert torch.get_default_dtype() == torch.float32


def test_what_is_no_readings_is_named(measurement, monkeypatch):
    record, _ = record_of(measurement, 9.0, monkeypatch)

    assert record.reason.startswith("TypeError: size.read returned float: end it with return Read")


@pytest.mark.parametrize("fault", [Diverged(), Skipped()])
def test_a_fault_without_words_has_its_name_as_the_reason(fault, measurement):
    record = failed_record(measurement, fault)

    assert record.reason == type(fault).__name__
    check_record(type(record).model_validate_json(record.model_dump_json()), None)


class Mute(Exception):
    """A fault that cannot say what it is."""

    def __str__(self):
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Mute(), "Mute: no message"),
        (ValueError("missing " + "x" * 10**7), "ValueError: missing xxx"),
        (Diverged("x" * 10**7), "xxx"),
        (OSError("no file \udcff"), "OSError: no file ?"),
    ],
    ids=["mute", "long", "long and diverged", "a name that is not UTF-8"],
)
def test_a_record_holds_any_fault(fault, reason, measurement, tmp_path):
    record = failed_record(measurement, fault)

    assert record.reason.startswith(reason)
    store = Store(tmp_path / "r")
    store.write(record)
    assert store.path(record.key).stat().st_size < 20_000
    assert store.get(record.key) and not store.damaged
