"""A W&B server of our own, and nothing of whoever runs the tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracking.server import WandbServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """Named by the environment, with a key."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with WandbServer() as made:
        monkeypatch.setenv("WANDB_BASE_URL", made.url)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        yield made
