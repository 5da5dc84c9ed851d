"""Checkpoints and sounds that the encoder tests share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tiny import write_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a family's tiny checkpoint; written once, not to be changed."""
    root, written = tmp_path_factory.mktemp("tiny"), dict[str, Path]()

    def folder(family: str) -> Path:
        if family not in written:
            written[family] = write_tiny_checkpoint(family, root / family)
        return written[family]

    return folder
