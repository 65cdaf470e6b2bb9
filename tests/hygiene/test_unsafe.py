"""Nothing received is ever executed: no pickle, no torch.load, no eval in any room."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("fedcore", "hardware", "edge_client", "aggregator", "attacker", "testbed")
SOURCES = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]
BANNED_IMPORTS = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_code_comes_out_of_bytes(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.partition(".")[0] for alias in node.names} & BANNED_IMPORTS
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in BANNED_IMPORTS
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "torch.load", "yaml.load"}
            for keyword in node.keywords:
                allowed = getattr(keyword.value, "value", None) is False
                assert keyword.arg != "allow_pickle" or allowed
