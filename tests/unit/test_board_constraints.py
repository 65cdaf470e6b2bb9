"""Boards that are set up by hand get the versions that `leakwatt deploy` puts on boards."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from testbed.deploy.matrix import Probe, Wish, pins

FILE = Path(__file__).parents[2] / "deploy" / "constraints-board.txt"


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_by_hand_and_by_deploy_a_board_gets_the_same_versions(python: str) -> None:
    lines = (line.partition("#")[0].strip() for line in FILE.read_text().splitlines())
    by_hand = {
        f"{wanted.name}{wanted.specifier}"
        for wanted in map(Requirement, filter(None, lines))
        if wanted.marker is None or wanted.marker.evaluate({"python_version": python})
    }
    board = Probe(
        machine="aarch64", bits="64", libc="glibc 2.36", python=python, venv="yes", systemd="yes"
    )
    by_deploy = {
        pin
        for extra in ("edge-onnx", "edge-torch")
        for pin in pins(board, Wish(extra=extra, index="https://index"))
    }
    assert by_hand == by_deploy
