"""`disclose` and `judge` say what they did: one line per arm, or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from testbed.cli import main


@pytest.fixture
def say(make_world: Callable, capsys) -> Callable[..., str]:
    """A command on a run of one arm, and what it printed."""
    world = make_world(arms=[{"name": "ann"}], threat={"labels": True, "step_order": True})

    def said(command: str, *options: str) -> str:
        folders = [str(world.run.root), "--private-folder", str(world.private.root)]
        assert main([command, *folders, *options]) == 0
        return capsys.readouterr().out

    return said


def test_disclosing_says_what_was_told(say) -> None:
    line = say("disclose")
    assert line.startswith("ann: labels, step_order, about 9 victims, in ")
    assert line.count("\n") == 1
    (arm,) = json.loads(say("disclose", "--json"))["arms"]
    assert (arm["arm"], arm["n_victims"], arm["fields"]) == ("ann", 9, ["labels", "step_order"])


def test_judging_says_what_came_out_beside_the_baselines(say) -> None:
    line = say("judge")
    assert line.startswith("ann: 9 victims, 0 failed; PSNR ")
    assert "mean image" in line
    assert "noise" in line
    assert line.count("\n") == 1
    (arm,) = json.loads(say("judge", "--json"))["arms"]
    assert (arm["victims"], arm["failed"]) == (9, 0)
    psnr = arm["metrics"]["psnr"]
    assert psnr["by_client"]["n"] == 3
    assert psnr["mean"]["n"] == 9
    assert psnr["by_client"]["value"] == pytest.approx(psnr["mean"]["value"])
