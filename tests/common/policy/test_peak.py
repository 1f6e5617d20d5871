from __future__ import annotations

import pytest
import torch

from common.policy.peak import DATA_SHEETS, peak

CPU = torch.device("cpu")


def test_a_processors_peak_is_measured_once_and_says_how() -> None:
    found = peak(CPU)
    assert 1e8 < found.rate < 1e15
    assert found.source.startswith("measured: products of 512 x 512")
    assert peak(CPU) is found


def test_known_devices_have_their_data_sheets_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    found = peak(torch.device("cuda", 77))
    assert (found.rate, found.source) == (DATA_SHEETS["NVIDIA H200"], "data sheet of NVIDIA H200, dense bf16")
