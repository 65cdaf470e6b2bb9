"""The page on auditing: its Python runs as it stands, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

PAGE = Path(__file__).parents[2] / "docs" / "auditing.md"
PYTHON = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.mark.torch
def test_the_first_way_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    attacked, scored = PYTHON[:2]
    exec(attacked + scored, {})  # noqa: S102  # the page's own text
    said = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    value, _, _, baseline = said["psnr"].split()
    assert float(value) > 40 > 20 > float(baseline)


@pytest.mark.parametrize("block", PYTHON)
def test_every_block_of_python_compiles(block: str) -> None:
    compile(block, "auditing.md", "exec")


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE.read_text()):
        assert target.startswith("https://") or (PAGE.parent / target).exists(), target
