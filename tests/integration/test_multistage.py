"""A method that refines another: what it is given, and that its prior is built once."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.execution.build import Builder
from helpers import plugins, runs

ENDS = {
    "refines": """
prior, folder = job.prior, Folder(job.prior.folder)
assert prior.folder == job.source and set(prior.masks) == set(job.targets)
for name, mask in prior.masks.items():
    weight = model.get_submodule(name).weight
    assert mask.dtype == torch.bool and mask.shape == weight.shape
    assert torch.equal(mask, folder.tensor(name + ".weight") != 0)
    weight.mul_(0.5)
return walk.outcome(kept=sum(int(m.sum()) for m in prior.masks.values()))
""",
    "meddles": """
torch.set_num_threads(torch.get_num_threads() + 2)
torch.set_float32_matmul_precision("medium")
torch.use_deterministic_algorithms(True, warn_only=True)
torch.set_grad_enabled(False)
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
""",
    "gives_source": "return Outcome(job.source)",
    "forgets": "for name in job.targets:\n    model.get_submodule(name).weight.add_(1)",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    needed = "import torch\nfrom methods.model.folder import Folder\n"
    return plugins.install(tmp_path_factory.mktemp("site"), "refining", ENDS, preamble=needed)


pytestmark = pytest.mark.usefixtures("world")


@pytest.fixture
def applied(monkeypatch):
    """The label of every stage that is really applied."""
    labels, real = [], Builder._apply

    def note(self, artifact, *rest):
        labels.append(artifact.stages[-1].label)
        return real(self, artifact, *rest)

    monkeypatch.setattr(Builder, "_apply", note)
    return labels


def test_refinement_gets_its_prior_which_is_built_once(tmp_path, applied):
    methods = ("magnitude", "forgets:from=magnitude", "refines:from=magnitude")
    got = runs.measured(tmp_path / "r", methods=methods, measures=("size",))
    assert applied == ["dense", *methods]
    assert "2:4 does not hold in" in got["magnitude + forgets", None, "size"].reason
    refined = got["magnitude + refines", None, "pattern"]
    assert refined.status == "ok", refined.reason
    size = {r.metric: r.value for r in got["magnitude", None, "size"].readings}
    assert 0 < refined.notes["kept"] < size["nonzeros"]


def test_settings_of_torch_that_a_method_leaves_behind_change_no_number(tmp_path):
    def settings():
        precision = torch.get_float32_matmul_precision()
        return torch.get_num_threads(), precision, torch.get_default_dtype()

    before = settings()

    got = runs.measured(tmp_path / "r", methods=("magnitude", "meddles"), measures=("perplexity",))

    meddled, plain = (got[name, None, "perplexity"] for name in ("meddles", "magnitude"))
    assert meddled.readings == plain.readings
    assert settings() == before
    assert torch.is_grad_enabled() and not torch.are_deterministic_algorithms_enabled()
    assert torch.ones(1).device == torch.device("cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_a_method_returns_as_its_folder_stays(dtype, tmp_path):
    """A folder of the job is moved, because it may be large."""
    model = runs.tiny(tmp_path / "model")
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    asked = {"methods": ("gives_source",), "patterns": ("dense",), "measures": ("size",)}
    got = runs.measured(tmp_path / "r", models=(str(model),), dtype=dtype, **asked)
    assert [r.reason for r in got.values() if r.status != "ok"] == []
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before


def test_a_cached_artifact_follows_its_model_when_that_moves(tmp_path):
    """The cache names its input, never its path."""
    first, second = (runs.tiny(tmp_path / name) for name in ("first", "second"))
    same = {"methods": ("dense",), "perplexity": {"windows": 2, "seqlen": 64, "data": "wiki-mini"}}
    runs.run_here(runs.small(tmp_path / "a", models=(str(first),), **same))
    weights = load_file(first / "model.safetensors")
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    save_file(zeros, first / "model.safetensors", {"format": "pt"})
    runs.run_here(runs.small(tmp_path / "b", models=(str(second),), **same))

    one, other = (runs.records(tmp_path / r)["dense", None, "perplexity"] for r in "ab")
    assert one.key == other.key
    assert one.readings == other.readings
