"""Any task of lm-eval, and a user's file: its data is downloaded by name, and its tokens are known
before a run."""

import json
import re
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.inputs import tasks, tracks
from bench.inputs.task_yaml import most_generated, read_task
from methods.contract.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")

GSM8K = "openai/gsm8k"


def gsm8k():
    (file,) = tasks.expand(("gsm8k",)).values()
    return read_task("gsm8k", file)


def test_a_task_is_found_without_the_index_of_lm_eval(monkeypatch):
    """The index takes seconds to build."""
    monkeypatch.setitem(sys.modules, "bench.inputs.lmeval", None)
    assert gsm8k().name == "gsm8k"


def test_a_task_outside_the_sets_is_downloaded(cli, output, fake_hub, tmp_path):
    fake_hub.files = ("main/test-00000-of-00001.parquet", "README.md", "gsm8k.py")
    out = output("pull", "gsm8k", "--data-dir", tmp_path)
    assert f"gsm8k: {tmp_path / GSM8K} (hub, {fake_hub.revision})" in out
    assert (tmp_path / GSM8K / "main/test-00000-of-00001.parquet").exists()
    assert not (tmp_path / GSM8K / "gsm8k.py").exists()  # code is never downloaded
    assert "here already" in cli("pull", "gsm8k", "--data-dir", tmp_path)[1]


def own(folder, rows):
    """Write a task file with local data, and return it."""
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    file = folder / "mine.yaml"
    file.write_text(
        "task: mine\ndataset_path: json\ntest_split: test\noutput_type: generate_until\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}, train: none.jsonl}}}}\n"
        'doc_to_text: "{{question}}"\ngeneration_kwargs: {max_gen_toks: 10}\n'
    )
    return file


def test_a_file_of_yours_reads_its_own_data(output, tmp_path):
    assert (
        output("pull", own(tmp_path, [{"question": "x"}]))
        == "mine: reads the files that its YAML file names\n"
    )


def test_the_digest_of_a_file_of_yours_has_all_that_it_reads(tmp_path):
    """Functions beside it and beside an include, and data by a glob."""
    file, folder = own(tmp_path, [{"question": "x"}]), tmp_path / "other"
    (folder / "code").mkdir(parents=True)
    text = file.read_text().replace("rows.jsonl", "row*.jsonl")
    file.write_text(text + "include: other/below.yaml\n")
    functions = "process_docs: !function code.utils.process\ndoc_to_target: !function 'utils.f'\n"
    (folder / "below.yaml").write_text(functions)
    data = [tmp_path / "rows.jsonl", tmp_path / "rows2.jsonl"]
    code = [folder / name for name in ("utils.py", "code/utils.py", "code/imported.py")]
    found = []
    for used in data + code:
        for text in ("a = 1", "a = 2"):
            used.write_text(text)
            read_task.cache_clear()
            found.append(read_task("mine", str(file)).digest)

    assert len(set(found)) == len(found)
    assert read_task("mine", str(file)).files == tuple(map(str, data))


@pytest.mark.parametrize(
    "named",
    ["{data_dir: DIR}", "{data_dir: ~/data}", "{data_dir: DIR, data_files: {test: rows.jsonl}}"],
)
def test_data_in_a_folder_is_in_the_digest(tmp_path, monkeypatch, named):
    monkeypatch.setenv("HOME", str(tmp_path))
    file, data = own(tmp_path, []), tmp_path / "data/rows.jsonl"
    kwargs = f"dataset_kwargs: {named}".replace("DIR", str(data.parent))
    file.write_text(re.sub("dataset_kwargs: .*", lambda _: kwargs, file.read_text()))
    data.parent.mkdir()
    found = set()
    for text in ("a", "b"):
        data.write_text(text)
        read_task.cache_clear()
        task = read_task("mine", str(file))
        assert task.files == (str(data),)
        found.add(task.digest)
    assert len(found) == 2


@pytest.mark.parametrize("folder", [False, True])
def test_two_files_with_one_task_are_refused(tmp_path, folder):
    for name in "ab":
        (tmp_path / name).mkdir()
        own(tmp_path / name, [{"question": name}])
    names = ("mine",) if folder else (str(tmp_path / "a/mine.yaml"), str(tmp_path / "b/mine.yaml"))
    with pytest.raises(UserError, match=r"task 'mine' is in .*a/mine.yaml and in .*b/mine.yaml"):
        tasks.expand(names, tmp_path if folder else None)
    assert tasks.expand(names[:1]) if not folder else tasks.expand(("wiki_lastword",), tmp_path)


def test_a_file_in_a_folder_with_the_name_of_a_track_is_no_track():
    assert tracks.is_track("code/humaneval") and not tracks.is_track("code/x.yaml")


def test_tokens_of_a_task_that_generates(tmp_path):
    rows = [{"question": "x" * 40, "answer": "y" * 4000}] * 6
    task = read_task("mine", str(own(tmp_path, rows)))
    assert task.generates == 10
    assert tasks.count_tokens(task, None, None, 0, 10) == 6 * (40 / 4 + 10)
    assert tasks.count_tokens(task, None, 2, 3, 100) == 2 * (4 * 40 / 4 + 100)


@pytest.mark.parametrize("content", [b"3", b"{", b"\xff", b"[" * 10_000, b""])
def test_data_that_cannot_be_read_has_no_tokens(content, tmp_path):
    file = own(tmp_path, [])
    for name in ("rows.jsonl", "rows.csv", "rows.parquet"):
        (tmp_path / name).write_bytes(content)
        file.write_text(file.read_text().replace("rows.jsonl", name))
        assert tasks.count_tokens(read_task("mine", str(file)), None, None, 0, 0) in (0, 1)


def test_tokens_of_downloaded_data(tmp_path):
    folder = tmp_path / GSM8K / "main"
    folder.mkdir(parents=True)
    assert tasks.count_tokens(gsm8k(), tmp_path, None, 0, 256) == 0
    for split, count in (("test", 8), ("train", 100)):
        rows = [{"question": f"{i:04}" * 100, "answer": "y"} for i in range(count)]
        file = folder / f"{split}-00000-of-00001.parquet"
        pq.write_table(pa.Table.from_pylist(rows), file, compression=None)
    found = tasks.count_tokens(gsm8k(), tmp_path, None, 0, 256)
    assert 8 * (400 / 4 + 256) <= found <= 1.1 * 8 * (400 / 4 + 256)


def test_arguments_of_generation():
    tokens = {"": 256, "temperature=0,max_gen_toks=64": 64}
    tokens |= {"max_new_tokens=8": 8, "until=max_gen_toks": 256}
    assert {arguments: most_generated(arguments, 256) for arguments in tokens} == tokens
