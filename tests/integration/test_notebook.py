"""The notebook in docs/ runs from top to bottom, and is kept without outputs."""

import json
from pathlib import Path

import pytest
import torch

from bench.results.store import ReadOnlyStore
from helpers import runs

NOTEBOOK = Path(__file__).parents[2] / "docs/api.ipynb"


@pytest.mark.full
def test_runs(tmp_path, monkeypatch):
    import nbformat  # slow to import
    from nbclient import NotebookClient

    runs.own_cache(tmp_path, monkeypatch)
    monkeypatch.setenv("NOTEBOOK_RESULTS", str(tmp_path / "r"))
    # The spec leaves their number open.
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    names = {}
    exec(next(c.source for c in notebook.cells if c.cell_type == "code"), names)
    # So that the kernel starts processes for wanda alone.
    runs.run_here(names["spec"], only=("dense", "magnitude"))

    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()

    got = list(ReadOnlyStore(tmp_path / "r"))
    assert {r.identity.method for r in got} == {"dense", "magnitude", "wanda"}
    assert all(r.status == "ok" for r in got)


@pytest.mark.parametrize("cell", json.loads(NOTEBOOK.read_text())["cells"], ids=lambda c: c["id"])
def test_keeps_no_outputs(cell):
    assert not cell.get("outputs") and cell.get("execution_count") is None
