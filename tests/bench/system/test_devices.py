"""Cards, by stand-ins for the calls of torch that reach one."""

from pathlib import Path

import pytest
import torch

from bench.cli import doctor
from bench.system import devices
from methods.contract.errors import UserError


@pytest.mark.parametrize(("device", "number"), [("cuda", [0]), ("cuda:2", [2]), ("cpu", [])])
def test_a_card_without_a_number_is_the_first(device, number, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    devices.select_card(device)
    assert chosen == number


def test_a_card_whose_driver_is_too_old_is_not_used(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.resolve_device("auto") == "cpu"
    assert "driver is too old" in doctor._device()["detail"]
    with pytest.raises(UserError, match="'cuda' cannot be used: the NVIDIA driver is too old"):
        devices.resolve_device("cuda")
