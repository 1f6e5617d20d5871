"""One thread for torch, and one trained run folder for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.settings import save_settings
from reward_service.training import train_preference_model
from tests.reward_service.tiny_world import make_index, make_sessions, tiny_settings, write_log

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with ``settings.json``, ``reward/000001`` and ``index/000001``."""
    folder = tmp_path_factory.mktemp("run")
    log = write_log(folder / "log", make_sessions())
    index = make_index()
    index.save(folder / "index" / "000001")
    settings = tiny_settings()
    save_settings(settings, folder / "settings.json")
    train_preference_model(log, index, settings, folder, 3, lambda _: None)
    return folder
