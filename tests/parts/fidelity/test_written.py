"""Health of written answers, by hand and on tiny."""

import pytest

from bench.inputs import loading
from bench.measures import generation
from bench.parts.fidelity.written import Written, count_common, loops
from helpers import runs
from helpers.measuring import context_of, near_tiny
from methods.contract.method import Compute

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("answer", "loop"),
    [([], 0), ([1, 2, 3, 4] * 3, 0), ([1, 2, 3, 4] * 4, 1), ([9] * 6, 0), ([9] * 7, 1)],
)
def test_a_loop_repeats_four_tokens_more_than_three_times(answer, loop):
    assert loops(answer) == loop


def test_the_kept_share_is_the_longest_common_subsequence():
    assert count_common([7, 1, 9, 2, 3], [1, 2, 8, 3]) == 3
    assert count_common([3, 2, 1], [1, 2, 3]) == 1 and count_common([], [1]) == 0


def test_the_dense_model_keeps_its_answers_and_another_loses_some(tmp_path):
    measure = Written("wiki_continuation", 4, 12)

    def read(model):
        got = measure.read(lambda: model, context_of(tmp_path))
        return {reading.metric: reading.value for reading in got.values}, got

    dense = loading.load(runs.TINY, Compute())
    same, got = read(dense)
    other, _ = read(near_tiny(0.1))
    _, _, prompts = measure.prompts(context_of(tmp_path))
    answers = generation.answer(dense, prompts, 12, "cpu")

    assert same["kept_answer"] == 1 > other["kept_answer"] > 0
    assert same["answer_tokens"] == sum(map(len, answers)) / 4
    ended = sum(answer[-1] in generation.ends_of(dense) for answer in answers)
    assert same["ended"] == ended / 4
    texts = generation.decode(loading.load_tokenizer(runs.TINY), answers)
    assert list(got.notes["answers"].values()) == texts
