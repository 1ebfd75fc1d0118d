"""JSON that a parser accepts and a model folder must not contain."""

import pytest

from methods.model import safe_files


def nested(depth):
    return b'{"a": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_depth_is_bounded_long_before_pythons_own_limit():
    assert safe_files.parse_object(nested(199))
    for depth in (202, 900, 100_000):
        with pytest.raises(ValueError, match="recursion limit exceeded"):
            safe_files.parse_object(nested(depth))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": NaN}', "expected value"),
        (b'{"a": "\\ud800"}', "hex escape"),
        (b"[1]", "not a JSON object"),
        (b'"' + b"x" * 10 + b'"', "not a JSON object"),
        (b'{"a": ', "EOF while parsing"),
    ],
)
def test_what_is_no_object_of_plain_values_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        safe_files.parse_object(text)
