"""Calls by their syntax tree: by hand, and against the code of the wheel in another process."""

import json
import subprocess
import sys
import zipfile

import pytest

from bench.inputs import wheel_data
from bench.inputs.wheels import download_wheel
from bench.parts.tool_calls import bfcl, calls
from methods.contract.errors import UserError

FUNCTION = {
    "name": "geo.area",
    "parameters": {
        "required": ["base"],
        "properties": {
            "base": {"type": "float"},
            "unit": {"type": "string"},
            "sides": {"type": "array", "items": {"type": "integer"}},
            "at": {"type": "dict"},
        },
    },
}
WANTED = [
    {
        "geo.area": {
            "base": [10],
            "unit": ["square metres", ""],
            "sides": [[1, 2], ""],
            "at": [{"city": ["Bonn", "Köln"]}, ""],
        }
    }
]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("[geo.area(base=10)]", True),
        ("geo.area(base=2*5)", True),
        ("```geo.area(base=10.0, unit='Square-Metres')```", True),
        ("[geo.area(base=10, sides=[1, 2], at={'city': 'bonn'})]", True),
        ("[geo.area(base=10, sides=[2, 1])]", False),
        ("[geo.area(base=10, at={'city': 'Ulm'})]", False),
        ("[geo.area(base='10')]", False),
        ("[geo.area(base=10, height=1)]", False),
        ("[geo.area(unit='square metres')]", False),
        ("[area(base=10)]", False),
        ("[geo.area(base=10), geo.area(base=10)]", False),
        ("The area is geo.area(base=10).", False),
        ("[geo.area(base=open('/etc/passwd').read())]", False),
        ("[geo.area(base=9**9**9**9)]", False),
    ],
)
def test_calls_are_right_or_not(text, right):
    assert calls.are_right(text, [FUNCTION], WANTED) is right


def test_the_order_of_calls_is_free_and_each_counts_once():
    wanted = [{"geo.area": {"base": [k]}} for k in (1, 2)]
    assert calls.are_right("[geo.area(base=2), geo.area(base=1)]", [FUNCTION], wanted)
    assert not calls.are_right("[geo.area(base=2), geo.area(base=2)]", [FUNCTION], wanted)


def test_only_calls_are_calls():
    assert calls.has_call("[f(a=1), g()]")
    assert not any(map(calls.has_call, ("", "[]", "I cannot call f(a=1).", "[f(a=1), 3]")))


def test_the_wanted_calls_as_text_are_right():
    assert calls.are_right(calls.write(WANTED), [FUNCTION], WANTED)


WHEELS_OWN = """
import json, sys, types
sys.path.insert(0, sys.argv[1])

class Any:
    underscore_to_dot = False

def stub(name, **values):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(values)

stub("bfcl_eval.constants.model_config", MODEL_CONFIG_MAPPING={"m": Any})
converters = "bfcl_eval.eval_checker.ast_eval.type_convertor"
stub(f"{converters}.java_type_converter", java_type_converter=None)
stub(f"{converters}.js_type_converter", js_type_converter=None)
from bfcl_eval.constants.enums import Language
from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

import ast, re
source = open(sys.argv[1] + "/bfcl_eval/model_handler/utils.py").read()
wanted = ("ast_parse", "resolve_ast_call", "resolve_ast_by_type", "default_decode_ast_prompting")
tree = ast.parse(source)
tree.body = [n for n in tree.body if getattr(n, "name", "") in wanted]
class ReturnFormat:
    PYTHON = "python"
space = {"ast": ast, "re": re, "ReturnFormat": ReturnFormat}
exec(compile(tree, "utils", "exec"), space)

out = []
for category, text, functions, answers in json.load(sys.stdin):
    try:
        decoded = space["default_decode_ast_prompting"](text)
        found = ast_checker(functions, decoded, answers, Language.PYTHON, category, "m")
        out.append(bool(found["valid"]))
    except Exception:
        out.append(False)
print(json.dumps(out))
"""
"""Program that judges answers by the wheel's own code, of whose imports some are left out."""


def answers_to(asked, wanted):
    """Right answers, and answers that a small change makes wrong or leaves right."""
    for k, (question, one) in enumerate(zip(asked, wanted, strict=True)):
        text = calls.write(one)
        other = calls.write(wanted[(k + 1) % len(wanted)])
        changed = (
            text, text.upper(), text.lower(), other, text[1:-1], text.replace("'", '"'),
            text.replace("=", "=-", 1), text.replace("=", "='x', y=", 1), text.replace("0", "1", 1),
            text.replace("(", "(extra=1, ", 1), text.replace("[", "(").replace("]", ")"),
            f"Sure: {text}", text[:-2],
        )  # fmt: skip
        for answer in changed:
            yield question["id"].rpartition("_")[0], answer, question["function"], one


@pytest.mark.slow
def test_every_answer_is_judged_as_by_the_wheel(tmp_path):
    """50 questions of each category, with right and wrong answers."""
    try:
        folder = wheel_data.ensure(bfcl.WHEEL, None)
        wheel = download_wheel(bfcl.WHEEL.requirement, tmp_path, "")
    except UserError as fault:
        pytest.skip(f"no package index: {fault}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "wheel")
    given = []
    for category in bfcl.WITH_CALLS:
        given += answers_to(*bfcl.read_questions(folder, category, 50))
    done = subprocess.run(
        [sys.executable, "-P", "-c", WHEELS_OWN, str(tmp_path / "wheel")],
        input=json.dumps(given), capture_output=True, text=True, check=True,
    )  # fmt: skip
    theirs = json.loads(done.stdout)
    ours = [calls.are_right(text, functions, wanted) for _, text, functions, wanted in given]

    differing = [given[k] for k in range(len(given)) if ours[k] != theirs[k]]
    assert differing == []
    assert sum(ours) > 300 and len(ours) - sum(ours) > 300
