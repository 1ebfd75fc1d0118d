"""JSON that a parser accepts and a model folder must not contain."""

import pytest

from methods.model import safe_files


def nested(depth):
    return b'{"a": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_depth_is_bounded_long_before_pythons_own_limit():
    assert safe_files.parse_object(nested(safe_files.MAX_JSON_DEPTH - 1))
    for depth in (safe_files.MAX_JSON_DEPTH + 1, 900, 100_000):
        with pytest.raises(ValueError, match=r"^nested too deeply$"):
            safe_files.parse_object(nested(depth))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b"[1]", "not a JSON object"),
        (b'"' + b"x" * 10 + b'"', "not a JSON object"),
        (b'{"a": ', "Expecting value"),
    ],
)
def test_what_is_no_object_of_plain_values_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        safe_files.parse_object(text)


def test_size_is_bounded(monkeypatch):
    monkeypatch.setattr(safe_files, "MAX_JSON_BYTES", 10)
    with pytest.raises(ValueError, match="more than 10 bytes of JSON"):
        safe_files.parse_object(b'{"abcdef": 1}')
