"""A small corpus, a run over it, and the data set that it makes."""

from pathlib import Path

import pytest

from configs.folder import RunFolder
from configs.schema import RunConfig
from tests.corpus import prepared, tiny, write_paragraphs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_paragraphs(tmp_path_factory.mktemp("corpus") / "text.txt", 120)


@pytest.fixture(scope="module")
def run(corpus: Path) -> RunConfig:
    return tiny(corpus)


@pytest.fixture(scope="module")
def done(run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An uninterrupted data stage that the others are compared with."""
    return prepared(run, tmp_path_factory.mktemp("runs") / "done")[0]
