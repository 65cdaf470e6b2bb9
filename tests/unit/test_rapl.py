"""RAPL on made-up powercap trees: disjoint domains, permissions, mirrors, devices that go away."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedcore.errors import ConfigError
from fedcore.plan import Choice
from fedcore.strict import build
from hardware.meters.base import NoSensorError
from hardware.meters.rapl import Rapl
from hardware.registry import METERS

MAX_UJ = 262143328850
NOBODY = 65534


@pytest.fixture
def root() -> Iterator[Path]:
    """Like tmp_path, but others may enter it: permissions are tried as somebody else than root."""
    folder = Path(tempfile.mkdtemp(prefix="rapl-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def zone(
    root: Path,
    path: str,
    name: str,
    energy_uj: int | str | None = 1_000_000,
    max_uj: int | None = MAX_UJ,
) -> Path:
    """A zone folder, e.g. zone(root, "intel-rapl:0", "package-0"); returns its counter's file."""
    folder = root / "sys/class/powercap" / path
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    if energy_uj is not None:
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
    if max_uj is not None:
        (folder / "max_energy_range_uj").write_text(f"{max_uj}\n")
    return folder / "energy_uj"


def rails(root: Path, **options: object) -> list[str]:
    with Rapl(root=str(root), **options).open() as meter:  # type: ignore[arg-type]
        return [rail.name for rail in meter.info.rails]


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Let the kernel check permissions for a user who is not root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_packages_and_their_dram_are_read_without_what_lies_inside_or_around(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0", 1_000_000)
    zone(root, "intel-rapl:0:0", "core", 600_000)
    zone(root, "intel-rapl:0:1", "uncore", 10_000)
    zone(root, "intel-rapl:0:2", "dram", 200_000, max_uj=65712999613)
    zone(root, "intel-rapl:1", "package-1", 2_000_000)
    zone(root, "intel-rapl:1:0", "dram", 300_000)
    zone(root, "intel-rapl:2", "psys", 9_000_000)
    (root / "sys/class/powercap/intel-rapl").mkdir()  # the control type has no name
    with Rapl(root=str(root)).open() as meter:
        read = dict(zip([rail.name for rail in meter.info.rails], meter.read().values, strict=True))
        assert read == pytest.approx(
            {"package-0": 1.0, "dram-0": 0.2, "package-1": 2.0, "dram-1": 0.3}
        )
        package, dram = meter.info.rails[0], meter.info.rails[1]
        assert package.wraps_at_j == pytest.approx(262143.328850)
        assert package.resolution == pytest.approx(61e-6, rel=0.01)
        assert dram.resolution == pytest.approx(15.3e-6, rel=0.01)


def test_psys_is_read_alone_and_only_when_asked_for(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0")
    with pytest.raises(NoSensorError, match="no RAPL psys zone"):
        rails(root, domain="psys")
    zone(root, "intel-rapl:1", "psys", 117870082040)
    assert rails(root) == ["package-0"]
    assert rails(root, domain="psys") == ["psys"]


def test_children_may_be_nested_in_their_parents_folder(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0")
    zone(root, "intel-rapl:0/intel-rapl:0:0", "dram")
    assert rails(root) == ["package-0", "dram-0"]


def test_the_same_counter_through_mmio_is_not_read_twice(root: Path) -> None:
    zone(root, "intel-rapl-mmio:0", "package-0", 777)
    assert rails(root) == ["package-0"]
    zone(root, "intel-rapl:0", "package-0", 1_000_000)
    with Rapl(root=str(root)).open() as meter:
        assert meter.read().values == (1.0,)


def test_mmio_serves_where_the_other_provider_has_no_counter(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0", None)
    zone(root, "intel-rapl-mmio:0", "package-0", 5_000_000)
    with Rapl(root=str(root)).open() as meter:
        assert meter.read().values == (5.0,)


def test_mirrored_dies_count_once(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0", 52649883221)
    zone(root, "intel-rapl:1", "package-1", 52649883221)
    zone(root, "intel-rapl:2", "package-2", 52649883222)
    with Rapl(root=str(root)).open() as meter:
        assert [rail.name for rail in meter.info.rails] == ["package-0", "package-2"]
        assert meter.info.notes == ("package-1 mirrors package-0 and is left out",)


def test_a_counter_for_root_alone_names_the_command_that_opens_it(root: Path) -> None:
    energy = zone(root, "intel-rapl:0", "package-0")
    energy.chmod(0o400 if os.geteuid() == 0 else 0o000)
    with as_nobody(), pytest.raises(NoSensorError) as caught:
        rails(root)
    assert "only root may read it" in caught.value.what
    assert "sudo chmod a+r /sys/class/powercap/*/energy_uj" in caught.value.fix
    energy.chmod(0o444)
    with as_nobody():
        assert rails(root) == ["package-0"]


def test_dram_that_cannot_be_read_is_noted_and_a_package_is_refused(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0")
    zone(root, "intel-rapl:0:0", "dram", "garbage")
    with Rapl(root=str(root)).open() as meter:
        assert [rail.name for rail in meter.info.rails] == ["package-0"]
        assert "dram-0 is left out" in meter.info.notes[0]
    zone(root, "intel-rapl:1", "package-1", "garbage")
    with pytest.raises(NoSensorError, match="intel-rapl:1"):
        rails(root)


def test_without_a_readable_range_nothing_is_said_about_wraps(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0", max_uj=None)
    with Rapl(root=str(root)).open() as meter:
        assert meter.info.rails[0].wraps_at_j is None


def test_a_device_that_goes_away_is_nan_with_its_reason(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0", 3_000_000)
    second = zone(root, "intel-rapl:1", "package-1", 4_000_000)
    with Rapl(root=str(root)).open() as meter:
        second.write_text("")
        sample = meter.read()
    assert sample.values[0] == 3.0
    assert math.isnan(sample.values[1])
    assert sample.fault.startswith("package-1: ")


def test_an_input_output_error_of_the_kernel_is_no_number(root: Path) -> None:
    energy = zone(root, "intel-rapl:0", "package-0", None)
    energy.symlink_to("/proc/self/mem")  # reading its first page is EIO
    with pytest.raises(NoSensorError, match="Input/output error"):
        rails(root)


def test_a_machine_without_zones_says_what_may_help(root: Path) -> None:
    with pytest.raises(NoSensorError, match="modprobe intel_rapl_msr"):
        rails(root)


@pytest.mark.parametrize(
    ("options", "named"), [({"domain": "core"}, "domain"), ({"gain_error": -0.1}, "gain_error")]
)
def test_options_are_checked(options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=f"meter 'rapl': .*{named}"):
        build(METERS, Choice(name="rapl", options=options))
