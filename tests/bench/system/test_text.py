"""Text from outside: shown, never obeyed."""

import json

import pytest

from bench.system import text

ONE_LINE = {
    "plain": ("wanda + finetune:rank=8, 漢字, ±0.5, é", None),
    "accents that are characters of their own": ("cafe\u0301", None),
    "escape": ("a\x1b[31mb", "a�[31mb"),
    "clipboard": ("\x1b]52;c;ZXZpbA==\x07", "�]52;c;ZXZpbA==�"),
    "C1": ("a\x9b31mb\x85", "a�31mb�"),
    "new lines": ("a\r\nb\x0bc\u2028d\u2029", "a��b�c�d�"),
    "other way round": ("a\u202egnp.exe\u2066", "a�gnp.exe�"),
    "no width": ("wan\u200bda\ufeff\u00ad", "wan�da��"),
    "no picture": ("a\u3164\u2800\u115f\ufe0f", "a����"),
    "other spaces": ("a\u00a0b\u3000", "a�b�"),
    "half surrogates": ("a\udcff", "a�"),
    "a pile of marks": ("a" + "\u0301" * 5, "a\u0301\u0301���"),
    "delete": ("a\x7f\x00", "a��"),
}


@pytest.mark.parametrize(("given", "shown"), ONE_LINE.values(), ids=ONE_LINE)
def test_one_line(given, shown):
    assert text.printable(given) == (given if shown is None else shown)
    assert text.printable(text.printable(given)) == text.printable(given)


def test_no_character_at_all_is_obeyed():
    everything = "".join(map(chr, range(0x110000)))
    shown = text.printable(everything)
    assert len(shown) == len(everything) and (shown.isprintable())
    assert "\n" not in text.printable_lines(everything.replace("\n", "").replace("\r", ""))


def test_lines_of_a_log():
    log = "\x1b[1mLOAD\x1b[0m\tok\r\n 10%\r100%\n\x1b[2Jend\x85"
    assert text.printable_lines(log) == "LOAD    ok\n 10%\n100%\n�[2Jend�"


def test_a_log_gives_github_no_commands():
    shown = text.printable_lines("x\n  ::add-mask::y\na ##[error]b\na::b")
    assert shown == "x\n  : :add-mask::y\na ## [error]b\na::b"


@pytest.mark.parametrize(
    "value", ["\x1b[31m", "\u202e", "\udcff", "\U000e0041", "é漢", "##[error]", 'a"\\\n']
)
def test_json_keeps_its_value(value):
    for ensure_ascii in (True, False):
        written = json.dumps({"a": [value]}, indent=1, ensure_ascii=ensure_ascii)
        shown = text.printable_json(written)
        assert json.loads(shown) == {"a": [value]}
        assert text.printable_lines(shown) == shown


CELLS = {
    "=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@SUM(1)": "'@SUM(1)", "＝1": "'＝1",
    "  =1": "'  =1", "\t=1": "'�=1", " \r\n@x": "' ��@x", "::error::x": "'::error::x",
    "": "", "wanda": "wanda", "a=1": "a=1", "a\nb": "a�b", "–": "–",
}  # fmt: skip


@pytest.mark.parametrize(("given", "cell"), CELLS.items(), ids=map(repr, CELLS))
def test_a_cell_of_csv(given, cell):
    assert text.escape_csv(given) == cell


def test_markdown():
    shown = text.escape_markdown("<b>|\x1b[1m `x` & [y]")
    assert shown == "&lt;b&gt;&#124;�&#91;1m &#96;x&#96; &amp; &#91;y]"
    shown = text.escape_comment("@all #1 gh-2 [x](y) *z* www.a.org")
    broken = "&#64;&#8203;all &#35;&#8203;1 gh&#8203;-2"
    assert shown == f"{broken} &#91;x&#93;&#40;y&#41; &#42;z&#42; www&#8203;.a.org"
