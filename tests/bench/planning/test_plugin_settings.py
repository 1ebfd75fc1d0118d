"""A table of settings that the measure of a plug-in adds to a run."""

import pytest

from bench import api
from bench.planning.spec import Spec
from bench.results import reproduce
from helpers import fake_records, runs
from methods.contract.errors import UserError

SOURCE = """
from dataclasses import dataclass
from typing import ClassVar
from pydantic import Field
from bench.measures.contract import MeasureSettings, Planned
from methods import Needs

class Settings(MeasureSettings):
    table: ClassVar[str] = "binned"
    bins: int = Field(default=15, ge=1)
    width: float = 0.5

@dataclass(frozen=True)
class Binned:
    name: ClassVar[str] = "binned-error"
    needs: ClassVar[Needs] = Needs.NOTHING
    protocol: ClassVar[str] = "bins"
    settings = Settings
    bins: int

    @classmethod
    def plan(cls, context):
        yield Planned({"bins": context.run.settings_of(Settings).bins})

class Models(Settings):
    table: ClassVar[str] = "models"

class Taken(Binned):
    settings = Models

    @classmethod
    def plan(cls, context):
        yield Planned({"bins": context.run.settings_of(Models).bins})
"""


@pytest.fixture(autouse=True)
def site(cache, installed):
    installed("bins", SOURCE, measures={"binned-error": "bins:Binned", "taken": "bins:Taken"})


def planned(**settings):
    spec = runs.small("r", methods=("magnitude",), measures=("binned-error",), **settings)
    return next(m for m in api.plan(spec).measurements if m.measure == "binned-error")


def test_its_measure_reads_them_and_they_are_part_of_the_key():
    usual, other = planned(), planned(binned={"bins": 3})

    assert (usual.config, other.config) == ({"bins": 15}, {"bins": 3})
    assert len({usual.key, other.key, planned(binned={"bins": 15, "width": 2}).key}) == 2
    assert planned(binned={"bins": 15}).key == usual.key


def test_they_survive_copies_and_the_command_that_makes_a_record_again():
    spec = Spec(measures=("binned-error",), binned={"bins": 3})
    assert spec.model_copy() == spec != Spec(measures=("binned-error",))
    assert spec.model_dump(mode="json", exclude_defaults=True)["binned"] == {"bins": 3}

    one = planned(binned={"bins": 3})
    record = fake_records.record().model_copy(
        update={"identity": one.identity, "key_inputs": one.key_inputs()}
    )
    assert planned(**{"binned": reproduce.settings(record)["binned"]}).key == one.key


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"binned": {"bins": 0}}, "invalid binned.bins=0: must be at least 1"),
        ({"binned": {"bin": 2}}, "unknown setting 'binned.bin': did you mean binned.bins"),
        ({"bined": {"bins": 2}}, "unknown setting 'bined': did you mean binned"),
    ],
)
def test_a_mistake_is_a_sentence(settings, sentence):
    with pytest.raises(UserError) as refused:
        Spec(**settings)
    assert sentence in str(refused.value)


def test_a_table_with_the_name_of_another_setting_is_refused():
    spec = runs.small("r", methods=("magnitude",), measures=("taken",))
    with pytest.raises(UserError, match="plug-in 'bins:Taken' cannot be used"):
        api.plan(spec)
