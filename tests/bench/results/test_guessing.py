"""Accuracy of guesses on a task, and rows that are above it."""

from bench.results import guessing
from bench.results.guessing import Guess
from helpers import fake_records


def test_an_accuracy_must_be_above_chance_and_the_majority_class():
    boolq, piqa = Guess(0.5, 0.63), Guess(0.5, 0.505)
    assert not boolq.is_beaten_by(0.606, 500), "above chance, and below always yes"
    assert not boolq.is_beaten_by(0.65, 500), "above both, but not by its interval"
    assert piqa.is_beaten_by(0.641, 1838)


def test_a_record_holds_its_guesses_or_its_data_is_known():
    data = "ccc7587d0cb0c6495969893f085e683e86ba11c8fbc59ebebd8e366693d532f4"
    about = {"measure": "zeroshot", "protocol": "boolq@2.0x500"}
    new = fake_records.record(notes={"chance": 0.25, "majority": 0.3}, **about)
    old = fake_records.record(key_inputs={"measure": {"content": data}}, **about)
    other = fake_records.record(key_inputs={"measure": {"content": "other data"}}, **about)
    assert guessing.of_record(new) == (0.25, 0.3)
    assert guessing.of_record(old) == (0.5, 0.63)
    assert guessing.of_record(other) is None
