"""What is written to standard output or standard error, by whomever, is only shown."""

import io
import subprocess
import sys

import pytest

from bench.system import terminal
from bench.system.terminal import PrintableStream, shorten


def written(*texts):
    raw = io.StringIO()
    stream = PrintableStream(raw)
    for text in texts:
        assert stream.write(text) == len(text)
    return raw.getvalue()


def test_what_a_library_prints_is_only_shown():
    assert written("a\x1b]0;title\x07b\n", "\x1b[1mbold\x1b[0m\r\n") == "a�]0;title�b\nbold\n"


def test_bars_of_downloads_are_drawn():
    bar = ["\r 10%|#  | a", "\n", "\x1b[A", "\r 20%|## | a\x1b[31m", "\n\x1b[A\x1b[A"]
    assert written(*bar) == "\r 10%|#  | a\n\x1b[A\r 20%|## | a\n\x1b[A\x1b[A"


def test_nothing_goes_around_the_stream():
    stream = PrintableStream(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert not hasattr(stream, "buffer")
    assert stream.encoding == "utf-8" and not stream.isatty()


def test_a_traceback_is_only_shown():
    """Python prints the traceback of an unexpected fault itself."""
    code = (
        "from bench.system.terminal import make_output_printable\n"
        "make_output_printable(); make_output_printable()\n"
        "print('a\\x1b[2Jb\\ud800')\n"
        "raise ValueError('\\x1b]52;c;eA==\\x07')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stdout == "a�[2Jb�\n"
    assert "ValueError: �]52;c;eA==�" in ended.stderr and "\x1b" not in ended.stderr


@pytest.mark.parametrize("columns", ["0", "000"])
def test_no_columns_are_no_width(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    file = io.StringIO()
    terminal.make_console(file).print("some text")
    assert file.getvalue() == "some text\n"


def test_an_old_encoding_breaks_nothing():
    code = "from bench.system.terminal import make_output_printable as m; m(); "
    code += "print('± é, −0.3 to ×2')"
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)}
    how = {"capture_output": True, "text": True, "env": environment}
    ended = subprocess.run([sys.executable, "-c", code], **how)
    assert (ended.returncode, ended.stdout) == (0, "? ?, -0.3 to x2\n"), ended.stderr


def test_a_long_name_is_cut_in_the_middle():
    for text, cuts in {
        "sparsegpt": {9: "sparsegpt", 5: "sp…pt", 4: "sp…t", 1: "…", 0: ""},
        "漢字漢字": {8: "漢字漢字", 7: "漢字…字", 5: "漢…字"},
    }.items():
        assert {width: shorten(text, width) for width in cuts} == cuts


def test_a_console_interprets_nothing():
    raw = io.StringIO()
    terminal.make_console(PrintableStream(raw)).print("[red]x[/red] :smile: 12")
    assert raw.getvalue() == "[red]x[/red] :smile: 12\n"
