"""Calls in a text, by its syntax tree, and whether they are the right ones.

The rules are those of bfcl-eval for answers in Python, written again: its own code evaluates parts
of an answer. Nothing of a text is evaluated here.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Call = dict[str, Any]
"""Arguments of a call by the name of its function, a single one."""

TYPES: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def decode(text: str) -> list[Call]:
    """Return the calls in a text such as [f(a=1), g(b='x')]. Raise ValueError if it has none, or
    anything else beside them."""
    text = text.strip("`\n ")
    if not text.startswith("["):
        text = "[" + text
    if not text.endswith("]"):
        text += "]"
    try:
        body = ast.parse(text.strip().strip("'"), mode="eval").body
        parts = [body] if isinstance(body, ast.Call) else getattr(body, "elts")  # noqa: B009
        if not all(isinstance(part, ast.Call) for part in parts):
            raise ValueError("a part is no call")
        return [_call(part) for part in parts]
    except (SyntaxError, AttributeError, TypeError, ArithmeticError) as fault:
        raise ValueError(str(fault)) from None
    except (RecursionError, MemoryError):
        raise ValueError("too deep") from None


def _call(node: ast.Call) -> Call:
    names, part = [], node.func
    while isinstance(part, ast.Attribute):
        names.append(part.attr)
        part = part.value
    if isinstance(part, ast.Name):
        names.append(part.id)
    arguments = {str(word.arg): _value(word.value) for word in node.keywords}
    return {".".join(reversed(names)): arguments}


def _value(node: Any) -> Any:
    """Return an argument. A name is its text, and a call without keywords, too."""
    match node:
        case ast.Constant():
            return "..." if node.value is Ellipsis else node.value
        case ast.UnaryOp(operand=ast.Constant(value=number)):
            return -number  # type: ignore[operator]
        case ast.List():
            return [_value(part) for part in node.elts]
        case ast.Tuple():
            return tuple(_value(part) for part in node.elts)
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return {_value(key): _value(value) for key, value in pairs}
        case ast.BinOp():
            return _number(node)
        case ast.Name():
            return node.id
        case ast.Call():
            return _call(node) if node.keywords else ast.unparse(node)
        case ast.Subscript():
            return f"{ast.unparse(node.value)}[{ast.unparse(node.slice)}]"
    raise ValueError(f"{type(node).__name__} is no value")


def _number(node: ast.AST) -> Any:
    """Return the number of an arithmetic expression of numbers."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand)
        case ast.BinOp(op=op, left=left, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_number(left), _number(right))
    raise ValueError("no arithmetic of numbers")


def has_call(text: str) -> bool:
    """Return whether a text is one or more calls and nothing else."""
    try:
        return bool(decode(text))
    except ValueError:
        return False


def are_right(text: str, functions: Sequence[Mapping[str, Any]], wanted: Sequence[Call]) -> bool:
    """Return whether the calls of a text are the wanted ones, in any order.

    functions: their descriptions. wanted: for each call the allowed values of each argument; ""
    allows to leave it out.
    """
    try:
        calls = decode(text)
    except ValueError:
        return False
    if len(calls) != len(wanted):
        return False
    by_name = {function["name"]: function for function in functions}
    left = list(calls)
    for one in wanted:
        ((name, allowed),) = one.items()
        found = [k for k, call in enumerate(left) if _is_right(call, by_name[name], allowed)]
        if not found:
            return False
        del left[found[0]]
    return True


def _is_right(call: Call, function: Mapping[str, Any], allowed: Mapping[str, Any]) -> bool:
    arguments = call.get(function["name"])
    about = function["parameters"]
    if arguments is None or any(name not in arguments for name in about["required"]):
        return False
    for name, value in arguments.items():
        known = name in about["properties"] and name in allowed
        if not known or not _is_allowed(value, about["properties"][name], allowed[name]):
            return False
    return all(name in arguments or "" in values for name, values in allowed.items())


def _is_allowed(value: Any, about: Mapping[str, Any], allowed: list[Any]) -> bool:
    """Return whether an argument has the type of its description, or of an answer, and an allowed
    value."""
    kind, inner = TYPES[about["type"]], None
    if about["type"] in ("array", "tuple"):
        inner = TYPES[about["items"]["type"]]
    if about["type"] == "tuple" and isinstance(value, tuple):
        value = list(value)
    if about["type"] == "float" and type(value) is int:
        value = float(value)
    as_answer = next((type(one) for one in allowed if one != ""), None)
    # An allowed value of another type is the name of a variable, and must be equal.
    is_variable = as_answer is not None and as_answer is not kind
    if type(value) is not kind or not _fits(value, inner, allowed):
        if as_answer is None or type(value) is not as_answer or type(value) is kind:
            return False
        is_variable = True
    if is_variable:
        return value in allowed
    if kind is dict:
        return any(_same_dict(value, one) for one in allowed if one != "")
    if inner is dict:
        return any(_same_dicts(value, one) for one in allowed)
    if kind is str:
        return plain(value) in [plain(one) for one in allowed if isinstance(one, str)]
    if kind is list:
        return _plain_all(value) in [_plain_all(one) for one in allowed]
    return value in allowed


def _fits(value: Any, inner: type | None, allowed: list[Any]) -> bool:
    """Return whether the parts of a list have the type of its description, or of a part of an
    answer."""
    if inner is None:
        return True
    for one in allowed:
        if not isinstance(one, list):
            return True
        kinds = {inner, next((type(part) for part in one if part != ""), inner)}
        if all(type(part) in kinds for part in value):
            return True
    return False


def _same_dict(value: Any, allowed: Any) -> bool:
    if any(key not in allowed for key in value):
        return False
    for key, one in value.items():
        if _plain_one(one) not in [_plain_one(other) for other in allowed[key]]:
            return False
    return all(key in value or "" in values for key, values in allowed.items())


def _same_dicts(value: list[Any], allowed: Any) -> bool:
    pairs = zip(value, allowed, strict=False)
    return len(value) == len(allowed) and all(_same_dict(*pair) for pair in pairs)


def plain(text: str) -> str:
    """Return a text without spaces, case and the marks that may differ."""
    return re.sub(r"[ \,\.\/\-\_\*\^]", "", text).lower().replace("'", '"')


def _plain_one(value: Any) -> Any:
    return plain(value) if isinstance(value, str) else value


def _plain_all(values: Any) -> list[Any]:
    return [_plain_one(value) for value in values]


def write(wanted: Sequence[Call]) -> str:
    """Return the wanted calls as a text, with the first allowed value of each argument that may not
    be left out."""
    calls = []
    for one in wanted:
        ((name, allowed),) = one.items()
        words = []
        for argument, values in allowed.items():
            if "" not in values:
                words.append(f"{argument}={_first(values[0])!r}")
        calls.append(f"{name}({', '.join(words)})")
    return f"[{', '.join(calls)}]"


def _first(value: Any) -> Any:
    """Return a value in which each list of allowed values of a dict is its first."""
    if isinstance(value, dict):
        return {key: _first(values[0]) for key, values in value.items() if "" not in values}
    if isinstance(value, list):
        return [_first(part) for part in value]
    return value
