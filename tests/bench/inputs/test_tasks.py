"""Data of tasks: data sets with one configuration and with several, with and without a README."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.inputs import lmeval, tasks
from bench.inputs.task_yaml import read_task
from methods.contract.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


def task_of(name):
    return read_task(name, tasks.TASK_FILES[name])


def write_arc(folder, question, splits=("test", "validation")):
    choices = {"text": ["a", "b"], "label": ["A", "B"]}
    row = {"id": "1", "question": question, "choices": choices, "answerKey": "B"}
    folder.mkdir(parents=True)
    for split in splits:
        pq.write_table(pa.Table.from_pylist([row]), folder / f"{split}-00000-of-00001.parquet")


def questions(task, mirror):
    loaded = lmeval._load(task, tasks.data_folder(task, mirror))["tasks"][task.name]
    return [d["question"] for d in loaded.eval_docs]


@pytest.mark.parametrize(
    "readme", [None, "---\nlicense: mit\n---\n", "---\nconfigs: 3\n---\n", "---\n[\n---\n"]
)
def test_configurations_are_read_from_their_folders(tmp_path, readme):
    folder = tmp_path / "allenai/ai2_arc"
    write_arc(folder / "ARC-Easy", "easy?")
    write_arc(folder / "ARC-Challenge", "hard?")
    if readme is not None:
        (folder / "README.md").write_text(readme)
    assert questions(task_of("arc_easy"), tmp_path) == ["easy?"]
    assert questions(task_of("arc_challenge"), tmp_path) == ["hard?"]


def test_a_readme_that_lists_the_configuration_decides(tmp_path):
    folder = tmp_path / "allenai/ai2_arc"
    write_arc(folder / "ARC-Easy", "old?")
    write_arc(folder / "new", "new?")
    splits = "".join(f"  - {{split: {s}, path: new/{s}-*}}\n" for s in ("test", "validation"))
    listed = f"---\nconfigs:\n- config_name: ARC-Easy\n  data_files:\n{splits}---\n"
    (folder / "README.md").write_text(listed)
    assert questions(task_of("arc_easy"), tmp_path) == ["new?"]


def test_a_data_set_without_the_tasks_configuration_is_not_its_data(tmp_path, fake_hub):
    write_arc(tmp_path / "allenai/ai2_arc/ARC-Challenge", "hard?")
    fake_hub.error = OSError("refused")
    easy = task_of("arc_easy")
    assert tasks.data_folder(task_of("arc_challenge"), tmp_path)
    assert not tasks.data_folder(easy, tmp_path)
    assert tasks.data_digest(easy, tmp_path) == tasks.revision(easy, tmp_path) == ""
    said = rf"not in {tmp_path}/allenai/ai2_arc/ARC-Easy or .*bench pull arc_easy --from index"
    with pytest.raises(UserError, match=said):
        tasks.ensure(easy, tmp_path)


def test_a_hub_without_the_tasks_configuration_is_refused(fake_hub):
    """Without the check lm-eval would download an unknown revision."""
    fake_hub.files = ("ARC-Challenge/test.parquet", "README.md")
    with pytest.raises(UserError, match=r"<mirror>/allenai/ai2_arc/ARC-Easy/ and pass --data-dir"):
        tasks.ensure(task_of("arc_easy"), None)


def test_a_missing_split_is_one_sentence(tmp_path):
    write_arc(tmp_path / "allenai/ai2_arc/ARC-Easy", "easy?", splits=("test",))
    with pytest.raises(UserError, match=r"arc_easy in .* cannot be read: there is no split 'val"):
        questions(task_of("arc_easy"), tmp_path)
