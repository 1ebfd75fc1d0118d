"""Records of classes in files of a user: refused, and no file runs."""

from types import SimpleNamespace

from bench import api
from bench.parts.submission import submission_rules
from helpers import runs


def record(tmp_path, stages=("wanda",), plugins=()):
    """A record of a plan, as far as its reproduction is judged."""
    first = api.plan(runs.small(tmp_path / "r", methods=("magnitude",))).measurements[-1]
    identity = first.identity.model_copy(update={"stages": stages})
    return SimpleNamespace(
        identity=identity, key_inputs=first.key_inputs(), short_key="0", notes={}, plugins=plugins
    )


def test_a_class_in_a_file_is_refused(tmp_path):
    plugin = {"name": "row_norm", "distribution": "my.py", "file": "my.py:RowNorm"}
    said = list(submission_rules._of_reproduction(record(tmp_path, ("row_norm",), [plugin])))
    assert any("which no one else has" in each for each in said)


def test_a_label_makes_no_file_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('ran', 'w')")
    for stages in (("evil.py",), (f"{tmp_path}/evil.py:Evil",), ("wanda:from=evil.py",)):
        assert list(submission_rules._of_reproduction(record(tmp_path, stages)))
    assert not (tmp_path / "ran").exists()
