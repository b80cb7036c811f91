"""What all tests share: where real payloads may lie, and real parts to run against."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real payloads beside the checkout; they are for testing only and not part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real payloads are not there: {folder} does not exist")
    return folder
