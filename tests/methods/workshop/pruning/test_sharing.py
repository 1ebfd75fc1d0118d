"""Two and four processes that share a calibration leave what one leaves."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bench.catalog.entries import METHODS, QUANTIZERS
from bench.formats.stored import StoredFolder
from bench.inputs import loading, windows
from helpers import forked_ranks, shared_calibration
from helpers.models import sample
from helpers.runs import TINY
from helpers.shared_calibration import EXACT, STREAMED, TINY_METHODS, exact_case, tiny_case
from helpers.trainings import LAST_DIGIT
from methods.contract.errors import UserError
from methods.model.folder import Folder
from methods.model.targets import dense_weight
from methods.workshop.pruning.sharing import Sharing


@pytest.fixture(scope="module")
def tokens():
    tokenizer = loading.load_tokenizer(TINY)
    encode = lambda text: list(tokenizer(text)["input_ids"])  # noqa: E731
    return torch.tensor(windows.draw_calibration("wiki-mini", 16, 128, 0, encode, None))


WORLDS = sample([2, 4], 2)
QUICK = ("wanda unstructured", "int4-gptq", "experts")
"""Cases of the default run: a mask, weights, totals over processes, a mixture."""


@pytest.fixture(scope="module")
def shared(request, tokens, tmp_path_factory):
    """Return the folder with the results of all cases of this session."""
    out = tmp_path_factory.mktemp("shared")
    save_file({"tokens": tokens}, out / "tokens.safetensors")
    asked = {}
    for item in request.session.items:
        params = item.callspec.params if item.path == request.path and "[" in item.name else {}
        if "world" in params:
            case = params.get("case", STREAMED)
            name = case if "float64" in item.fixturenames else f"tiny {case}"
            asked.setdefault(params["world"], {"tiny sparsegpt"}).add(name)
    worlds = [",".join([str(world), *sorted(cases)]) for world, cases in asked.items()]
    forked_ranks.launch(shared_calibration, out, *worlds)
    return out


def same_notes(got, want):
    """Floats have six digits."""
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        for key in want:
            same_notes(got[key], want[key])
    elif isinstance(want, list):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            same_notes(one, other)
    elif isinstance(want, float):
        assert got == pytest.approx(want, rel=LAST_DIGIT, abs=1e-9)
    else:
        assert got == want


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", sample(EXACT, *QUICK))
def test_in_float64_they_leave_the_same_masks_and_notes(case, world, shared, float64, tmp_path):
    model, job, method = exact_case(case, tmp_path / "source")
    one = method.apply(model, job)

    folder = shared / str(world) / "exact" / case
    got = Folder(folder / "model")
    for target in job.targets:
        want, weight = dense_weight(one.model.get_submodule(target)), got.weight(target)
        assert torch.equal(weight != 0, want != 0), target
        off = float(want.abs().max()) * LAST_DIGIT / 10
        torch.testing.assert_close(weight, want, rtol=0, atol=off)
    for stored in (StoredFolder(folder / f"of rank {rank}") for rank in range(world)):
        assert set(stored) == set(one.stored)
        assert all(torch.equal(stored[target].decode(), got.weight(target)) for target in stored)
    notes = json.loads((folder / "notes.json").read_text())
    same_notes(notes, json.loads(json.dumps(dict(one.notes))))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", sample(TINY_METHODS, "sparsegpt"))
def test_on_tiny_they_leave_the_same_weights_but_for_ties(case, world, shared, tokens, tmp_path):
    model, job, method = tiny_case(case, tokens, tmp_path)
    method.apply(model, job)

    got = Folder(shared / str(world) / "tiny" / case / "model")
    masks = values = weights = 0
    for target in job.targets:
        want, weight = dense_weight(model.get_submodule(target)), got.weight(target)
        masks += int(((weight != 0) != (want != 0)).sum())
        values += int(((weight - want).abs() > 1e-4 * want.abs().max()).sum())
        weights += want.numel()
    assert masks <= 1e-4 * weights
    assert values <= 1e-4 * weights


@pytest.mark.parametrize("world", WORLDS)
def test_streamed_from_disk_they_leave_the_same_bits(world, shared):
    folders = [shared / str(world) / "tiny" / case for case in ("sparsegpt", STREAMED)]
    memory, streamed = (Folder(folder / "model") for folder in folders)
    assert set(streamed) == set(memory)
    for name in memory:
        assert torch.equal(streamed.tensor(name), memory.tensor(name)), name
    assert len({(folder / "notes.json").read_text() for folder in folders}) == 1


def test_every_method_that_says_it_can_be_shared_is_among_these():
    entries = {**METHODS, **QUANTIZERS}
    of_one_class = {"int3-gptq", "mxfp4-gptq", "nvfp4-gptq"}  # that of int4-gptq, with another grid
    shared = {name for name, entry in entries.items() if entry.shares_calibration}
    assert shared == {case[1] for case in EXACT.values()} | of_one_class


@pytest.mark.parametrize(
    ("sequences", "processes", "batch", "sizes"),
    [
        (5, 4, 8, [[1], [1], [1], [1, 1]]),
        (22, 3, 4, [[4, 4], [4, 4], [4, 2]]),  # the batches of one process
        (10, 3, 4, [[4], [4], [2]]),
    ],
)
def test_batches_are_in_order_and_large(sequences, processes, batch, sizes):
    tokens = torch.arange(sequences)[:, None]

    def batches(rank):
        return Sharing(torch.device("cpu"), rank, processes).batches(tokens, batch)[0]

    parts = [batches(rank) for rank in range(processes)]

    assert [[len(one) for one in part] for part in parts] == sizes
    assert torch.equal(torch.cat([one for part in parts for one in part]), tokens)


def test_more_processes_than_sequences_are_refused():
    with pytest.raises(UserError, match="4 processes cannot share 3 calibration sequences"):
        Sharing(torch.device("cpu"), 0, 4).batches(torch.zeros(3, 8), batch=1)


def test_work_is_balanced():
    owners = Sharing(torch.device("cpu"), 0, 2).divide({"a": 3, "b": 5, "c": 3, "d": 1})
    assert owners == {"b": 0, "a": 1, "c": 1, "d": 0}
