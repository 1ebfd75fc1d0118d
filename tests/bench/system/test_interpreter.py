"""Programs that this package starts import its installation, not modules of the current folder."""

import codecs
import os
import subprocess
import sys

import pytest

from bench.system import interpreter


def run(command, **options):
    known = {"env": interpreter.environment(), "capture_output": True, "text": True}
    return subprocess.run(command, check=False, **known | options)


@pytest.mark.parametrize("path", ["", f"{os.pathsep}/elsewhere{os.pathsep}{os.pathsep}/other"])
def test_an_empty_entry_of_pythonpath_is_not_the_current_folder(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", path)
    code = "import sys; print(*sys.path, sep=chr(10))"
    done = run([sys.executable, "-P", "-c", code], cwd=tmp_path)
    searched = done.stdout.splitlines()
    assert done.returncode == 0 and str(tmp_path) not in searched
    assert {"/elsewhere"} & set(path.split(os.pathsep)) <= set(searched)


def test_what_it_starts_in_turn_does_not_search_the_current_folder(tmp_path):
    (tmp_path / "here.py").write_text("print('run')")
    inner = "subprocess.run([sys.executable, '-m', 'here']).returncode"
    code = f"import subprocess, sys; sys.exit({inner})"
    done = run([sys.executable, "-P", "-c", code], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("installed", [True, False])
def test_a_source_tree_that_is_not_installed_is_found(tmp_path, monkeypatch, installed):
    library = str(interpreter.Path(os.__file__).parent)
    monkeypatch.setattr(interpreter, "ROOT", tmp_path)
    own = [str(tmp_path)]
    monkeypatch.setattr(sys, "path", [*own, library, *(own if installed else [])])
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    path = interpreter.environment()["PYTHONPATH"]
    assert path == ("/elsewhere" if installed else f"/elsewhere{os.pathsep}{tmp_path}")


def test_text_is_utf_8_whatever_the_locale():
    """Standard output keeps the encoding of the terminal."""
    code = "from bench.system.interpreter import require_utf8 as r; r(); import sys; "
    code += "print(open('/dev/null').encoding, sys.stdout.encoding)"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONIOENCODING"} | plain
    done = run([sys.executable, "-c", code], env=environment)
    text, terminal = done.stdout.split()
    assert codecs.lookup(text).name == "utf-8" and codecs.lookup(terminal).name == "ascii"
    assert interpreter.environment()["PYTHONUTF8"] == "1"


def test_a_deleted_current_folder_is_a_sentence(tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    script = 'rmdir "$PWD"; exec "$0" -m bench ls methods'
    done = run(["sh", "-c", script, sys.executable], cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("bench: the current folder was deleted: change to another\n")
    assert "Traceback" not in done.stderr
