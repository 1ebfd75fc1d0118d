"""Folders that a command may write."""

from pathlib import Path

import pytest

from bench.system.files import require_folder
from methods.contract.errors import UserError


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    """It is empty, and cannot be renamed onto."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in (".", "link"):
        with pytest.raises(UserError, match="is the current folder"):
            require_folder(Path(name), new=True)
    require_folder(Path("."), "--results", new=False)
