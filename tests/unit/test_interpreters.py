"""Interpreters of clients are asked for their backend's packages before anything starts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from fedcore.config import Experiment, parse_experiment
from fedcore.errors import ConfigError, PluginError
from testbed.interpreters import check_interpreters


def experiment(backend: str) -> Experiment:
    clients = ["client-0", "client-1"]
    devices = [{"name": "board", "clients": clients, "backend": backend}]
    return parse_experiment({"name": "two", "n_clients": 2, "devices": devices}, where="two.toml")


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """An interpreter that finds nothing but the standard library."""
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def test_an_interpreter_that_has_the_packages_passes() -> None:
    pytest.importorskip("onnxruntime")
    check_interpreters(experiment("onnx"), {"onnx": sys.executable})
    check_interpreters(experiment("onnx"), {})


def test_one_without_leakwatt_is_named_with_what_to_install(bare: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_interpreters(experiment("onnx"), {"onnx": bare})
    assert str(refused.value) == (
        f"--python onnx={bare}: ModuleNotFoundError: No module named 'edge_client'; "
        "install 'leakwatt[edge-onnx]' there"
    )


def test_one_without_the_backends_packages_is_named() -> None:
    if importlib.util.find_spec("lava"):
        pytest.skip("lava is installed")
    with pytest.raises(ConfigError, match=r"--python lava=.* needs the package 'lava'"):
        check_interpreters(experiment("lava"), {"lava": sys.executable})
    with pytest.raises(PluginError, match=r"'leakwatt\[edge-lava\]'.*--python lava=PATH"):
        check_interpreters(experiment("lava"), {})


def test_one_that_nobody_needs_is_refused() -> None:
    with pytest.raises(ConfigError, match="no client runs on backend 'lava', only on torch"):
        check_interpreters(experiment("torch"), {"lava": sys.executable})


def test_one_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        check_interpreters(experiment("onnx"), {"onnx": str(tmp_path / "gone")})
