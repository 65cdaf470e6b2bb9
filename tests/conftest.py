"""Settings for all tests: no time limit per example, one torch thread (many tests share few cores).

`pytest --update-golden` is the only writer of tests/golden/files.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("leakwatt", deadline=None)
hypothesis.settings.load_profile("leakwatt")

with contextlib.suppress(ModuleNotFoundError):  # a bare board has no torch
    import torch

    torch.set_num_threads(1)


@dataclass(frozen=True)
class Golden:
    """Bytes that were right once and must not change in silence."""

    folder: Path
    update: bool

    def read(self, name: str, *, now: bytes) -> bytes:
        """The kept bytes; with --update-golden those of `now`, which are kept from here on."""
        path = self.folder / name
        if self.update:
            path.write_bytes(now)
        if not path.exists():
            pytest.fail(f"no golden file {name}; look at the bytes, then pytest --update-golden")
        return path.read_bytes()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden/files anew; then read them"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(
        folder=Path(__file__).parent / "golden" / "files",
        update=request.config.getoption("--update-golden"),
    )
