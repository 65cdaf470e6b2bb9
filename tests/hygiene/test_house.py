"""The house keeps its own rules: light imports, listed names, rooms of a readable size."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("fedcore", "hardware", "edge_client", "aggregator", "attacker", "testbed", "protos")
SOURCES = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py")) if "_pb2" not in p.name]
HEAVY = ("torch", "matplotlib", "sklearn", "torchvision", "skimage", "scipy")


def loaded_by(module: str) -> set[str]:
    """Top-level names in sys.modules after importing a module in a fresh interpreter."""
    names = "{name.partition('.')[0] for name in sys.modules}"
    code = f"import {module}, sys; print(*{names}, sep=chr(10))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "edge_client.cli",
        "edge_client.client",
        "aggregator.cli",
        "aggregator.server",
        "hardware.window",
        "hardware.doctor",
        "fedcore.wire.messages",
        "fedcore.config",
        "testbed.cli",
    ],
)
def test_what_a_board_runs_imports_nothing_heavy(module: str) -> None:
    assert not loaded_by(module) & set(HEAVY)


def test_the_attacker_cannot_even_load_the_truth() -> None:
    code = (
        "import attacker.cli, attacker.campaign, attacker.rpc, attacker.replay, sys;"
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('edge_client', 'aggregator', 'hardware', 'testbed') or m == 'fedcore.ground_truth'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_lists_its_public_names(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module says what it is for"
    listed = next(
        (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        ),
        None,
    )
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    }
    if listed is None:
        assert defined <= {"main"}, "a module with public names lists them in __all__"
        return
    assert defined <= set(listed)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_one_room(path: Path) -> None:
    assert path.stem not in {"utils", "helpers", "misc", "common"}
    assert len(path.read_text().splitlines()) <= 400


def test_nobody_else_owns_our_names() -> None:
    owners = importlib.metadata.packages_distributions()
    for room in ROOMS:
        assert set(owners.get(room, [])) <= {"leakwatt"}
