"""bench baseline and bench gate: which baselines there are."""

import pytest

from helpers import fake_records


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake_records.perplexity(tmp_path / "r", method="wanda", seed=0)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("main", "2026"), "unknown baseline 'nope': known: 2026, main, or a results folder"),
        (("nopes",), "unknown baseline 'nope': did you mean nopes, or a results folder?"),
        ((), "unknown baseline 'nope': known: none; bench baseline set writes one"),
    ],
)
def test_a_gate_without_its_baseline_says_which_there_are(cli, names, said):
    for name in names:
        assert cli("baseline", "set", name, "--results", "r")[0] == 0

    assert cli("gate", "--baseline", "nope", "--results", "r") == (2, "", f"bench: {said}\n")


def test_a_folder_without_records_hides_no_baseline_of_its_name(cli, tmp_path):
    (tmp_path / "main").mkdir()
    assert cli("baseline", "set", "main", "--results", "r")[0] == 0

    assert cli("gate", "--baseline", "main", "--results", "r")[0] == 0


def test_a_list_says_of_a_size_what_was_said_when_it_was_written(cli, tmp_path):
    out = cli("baseline", "set", "main", "--results", "r")[1]
    file = tmp_path / "results/baselines/main.zip"
    size = -(-file.stat().st_size // 1000) * 1000 - 36  # 8,964 bytes, for example
    with file.open("ab") as end:
        end.write(b"\0" * (size - file.stat().st_size))

    assert out.endswith(" kB\n")
    assert f" {size // 1000 + 1}" in cli("baseline", "ls")[1].splitlines()[2]
