"""What a search's spec may say, and how trials are typed and read back."""

import pytest

from bench.planning.search_space import Range, Search, read_search
from bench.planning.spec import Spec
from methods.contract.errors import UserError

SPEC = {
    "models": ["tiny"],
    "perplexity": {"data": "wiki-mini", "split": "validation", "windows": 2},
    "search": {
        "trials": 3,
        "fields": {
            "retrain": {"lr": {"low": 1e-3, "high": 1e-2, "log": True}},
            "cast:wanda-mask": {
                "beta1": {"choices": [0.5, 0.8]},
                "refresh": {"low": 5, "high": 20},
            },
        },
    },
}


def changed(**search):
    return SPEC | {"search": SPEC["search"] | search}


def test_a_spec_and_its_search():
    spec, search = read_search(SPEC)

    assert spec.methods == ("retrain", "cast:wanda-mask")
    assert spec.measures == ("perplexity",) and spec.quantizers == ("none",)
    assert search.trials == 3 and search.seed == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({k: v for k, v in SPEC.items() if k != "search"}, "no table"),
        (changed(trials=0), "invalid search.trials: must be at least 1"),
        (SPEC | {"search": {"trial": 3, "fields": SPEC["search"]["fields"]}},
         "search.trial: there is no such setting"),
        (changed(fields={}), "invalid search.fields: must not be empty"),
        (changed(fields={"retrain": {}}), "no field of retrain"),
        (changed(fields={"retrain": {"lr": {"low": "a", "high": 1}}}),
         "invalid search.fields.retrain.lr.low: must be a number"),
        (changed(fields={"retrain": {"lr": {"low": 1e-3}}}), "use low and high, or choices"),
        (changed(fields={"retrain": {"lr": {"low": 2, "high": 1}}}), "low must be below high"),
        (changed(fields={"retrain": {"lr": {"low": 0, "high": 1, "log": True}}}),
         "above 0 where log"),
        (changed(fields={"retrain": {"lr": {"low": 1, "high": 11}}}),
         "invalid retrain:lr=11: must be between 0 and 10"),
        (changed(fields={"retrain": {"pace": {"low": 1, "high": 2}}}), "unknown field of retrain"),
        (changed(fields={"unheard": {"lr": {"low": 1, "high": 2}}}), "unknown method"),
        (changed(fields={"cast": {"kernel": {"choices": ["cuda"]}}}), "invalid cast:kernel=cuda"),
        (
            changed(
                trials=13,
                fields={
                    "cast": {"beta1": {"choices": [0.5, 0.8, 0.8]},
                             "refresh": {"low": 5, "high": 10}}
                },
            ),
            "search.trials=13 is more than the 12 combinations that the fields of cast can take: "
            "use at most 12",
        ),
        (SPEC | {"methods": ["cast"]}, "leave methods out"),
        (SPEC | {"perplexity": {"data": "wiki-mini"}}, 'set split = "validation"'),
        (SPEC | {"seeds": [0, 1]}, "one value of seeds"),
        (SPEC | {"quantizers": ["int8"]}, "without a quantizer"),
        (SPEC | {"measures": ["size"]}, "leave measures"),
        (SPEC | {"depth": 3}, "unknown setting"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(values, words):
    with pytest.raises(UserError, match=words):
        read_search(values)


def test_whole_ends_of_a_field_of_fractions_mean_fractions():
    fields = {"sr-ste": {"eta": {"low": 0, "high": 1}}, "cast": {"refresh": {"low": 5, "high": 20}}}
    _, search = read_search(changed(fields=fields))

    assert not search.fields["sr-ste"]["eta"].is_whole and search.fields["cast"]["refresh"].is_whole


def test_labels_are_read_back():
    _, search = read_search(SPEC)
    label = search.label("cast:wanda-mask", {"beta1": 0.5, "refresh": 7})

    assert label == "cast:wanda-mask:beta1=0.5:refresh=7"
    assert search.values("cast:wanda-mask", label) == {"beta1": 0.5, "refresh": 7}


@pytest.mark.parametrize(
    "label",
    [
        "cast:wanda-mask",
        "cast:wanda-mask:beta1=0.5",
        "cast:wanda-mask:beta1=0.6:refresh=7",
        "cast:wanda-mask:no-kd:beta1=0.5:refresh=7",
        "cast:wanda-mask:beta1=0.5:refresh=true",
        pytest.param("cast:wanda-mask:beta1=0.5:refresh=" + "[" * 10**5, id="nested too deeply"),
    ],
)
def test_what_is_no_trial_of_this_search_is_none(label):
    _, search = read_search(SPEC)

    assert search.values("cast:wanda-mask", label) is None


def test_values_can_be_typed():
    """Three digits, and never out of the range."""
    allowed = Range(low=1.2345e-3, high=1e-2, log=True)

    assert allowed.rounded(0.00456789) == 0.00457
    assert allowed.rounded(1.2345e-3) == 1.2345e-3
    assert allowed.rounded(0.00999999) == 0.01
    assert Range(choices=("a", "b")).rounded("a") == "a"
    assert Range(low=1, high=5).rounded(3) == 3
    found = Search(trials=1, fields={"cast": {"lr": allowed}}).label("cast", {"lr": 1e-5})
    assert found == "cast:lr=1e-05"


def test_what_is_no_number_is_in_no_range():
    assert not any(Range(low=0, high=1).has(value) for value in (None, [1], {}, "1", True))


def test_an_unknown_setting_is_named_whatever_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "missing"))

    with pytest.raises(
        UserError, match=r"unknown setting 'calibration\.sequence'.* calibration\.sequences"
    ):
        Spec(data_dir=tmp_path, calibration={"sequence": 1})
