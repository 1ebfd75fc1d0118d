"""Extras in the metadata of the distribution."""

import pytest

from bench.system import packages
from methods.contract.errors import UserError


def test_extras_are_those_of_the_metadata(monkeypatch):
    requirements = [
        "torch>=2.9",
        "pytest>=8.3; extra == 'test'",
        'ray[default]<3,>=2.50 ; extra == "ray"',
        "x; extra == 'test'",
    ]
    monkeypatch.setattr(packages, "requires", lambda name: requirements)
    assert packages.extras()["test"] == {"pytest": True, "x": False}
    assert list(packages.extras()) == ["test", "ray"] and list(packages.extras()["ray"]) == ["ray"]


def test_what_is_not_installed_is_one_sentence():
    packages.require("json", what="a test", how="pip install json")
    said = r"^--log-to x needs the package no_such_package: pip install 'cast-bench\[x\]'$"
    how = packages.pip_install("x")
    with pytest.raises(UserError, match=said):
        packages.require("json", "no_such_package", what="--log-to x", how=how)
