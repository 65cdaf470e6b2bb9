"""The machine card: what files say, what is missing and why, and no serial number."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import psutil
import pytest

from fedcore.devices import Computing
from fedcore.strict import canonical_json, digest
from fedcore.types import Missing
from hardware.card import FrequencyPolicy, MachineCard, read_card

NO_METER = Missing(why="no sensor")
COMPUTING = Computing(providers=("CPUExecutionProvider",), threads="2")
SERIAL = "10000000abcdef01"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """The files of a Raspberry Pi in a container, in the shape of the kernel's."""
    cpu = "sys/devices/system/cpu"
    policies = {
        f"{cpu}/cpufreq/policy{n}/{name}": text
        for n, now in ((0, "1500000"), (1, "2400000"))
        for name, text in (
            ("scaling_governor", "ondemand\n"),
            ("scaling_min_freq", "1500000\n"),
            ("scaling_max_freq", "2400000\n"),
            ("scaling_cur_freq", f"{now}\n"),
            ("related_cpus", f"{2 * n} {2 * n + 1}\n"),
        )
    }
    write(
        tmp_path,
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/device-tree/serial-number": f"{SERIAL}\0",
            "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\n"
            f"processor\t: 1\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\nSerial\t\t: {SERIAL}\n",
            "proc/meminfo": "MemTotal:        8245808 kB\nMemFree:         1 kB\n",
            "proc/self/cgroup": "0::/docker/job\n",
            "sys/fs/cgroup/cpu.max": "max 100000\n",
            "sys/fs/cgroup/docker/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/docker/job/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/docker/job/memory.max": "536870912\n",
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "39500\n",
            "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
            "sys/class/thermal/thermal_zone1/temp": "-256000\n",
            "sys/class/thermal/cooling_device0/type": "cpu-throttle-alert\n",
            "sys/class/thermal/cooling_device0/cur_state": "2\n",
            "sys/class/thermal/cooling_device1/type": "pwm-fan\n",
            "sys/class/thermal/cooling_device1/cur_state": "3\n",
            "sys/class/hwmon/hwmon2/in0_lcrit_alarm": "1\n",
            f"{cpu}/online": "0-3\n",
            f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "5\n",
            f"{cpu}/cpu1/thermal_throttle/core_throttle_count": "6\n",
            **policies,
        },
    )
    return tmp_path


def test_a_board_is_described_by_its_files(board: Path) -> None:
    card = read_card(meter=NO_METER, computing=COMPUTING, root=board)
    assert card.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert card.cpu == "ARM implementer 0x41 part 0xd0b"
    assert card.n_cpus == 4
    assert card.memory_bytes == 8245808 * 1024
    assert card.os == "Debian GNU/Linux 12 (bookworm)"
    assert card.frequencies == (
        FrequencyPolicy(
            cpus=(0, 1, 2, 3),
            governor="ondemand",
            min_hz=1_500_000_000,
            max_hz=2_400_000_000,
            current_hz=(1_500_000_000, 2_400_000_000),
        ),
    )
    assert card.conditions.temperatures_c == {"thermal_zone0 cpu-thermal": 39.5}
    assert card.conditions.throttling == {
        "core_throttle_count": 11,
        "in0_lcrit_alarm": 1,
        "cooling_device0": 2,
    }
    assert card.limits.cpus == 1.5  # the tightest of the nested groups
    assert card.limits.memory_bytes == 536870912


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "1048576\n",
        },
    )
    limits = read_card(meter=NO_METER, computing=COMPUTING, root=tmp_path).limits
    assert limits.cpus == 0.5
    assert limits.memory_bytes == 1048576


def test_what_is_not_there_is_missing_with_its_reason(tmp_path: Path) -> None:
    card = read_card(meter=NO_METER, computing=COMPUTING, root=tmp_path)
    read_from_files = (
        card.board,
        card.cpu,
        card.n_cpus,
        card.memory_bytes,
        card.os,
        card.frequencies,
        card.conditions.temperatures_c,
        card.conditions.throttling,
        card.limits.cpus,
        card.limits.memory_bytes,
    )
    for value in read_from_files:
        assert isinstance(value, Missing)
        assert value.why


def test_no_serial_number_and_no_names_are_told(board: Path) -> None:
    told = canonical_json(read_card(meter=NO_METER, computing=COMPUTING, root=board)).decode()
    assert SERIAL not in told
    assert os.uname().nodename not in told


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    card = read_card(meter=NO_METER, computing=COMPUTING)
    assert card.n_cpus == psutil.cpu_count()
    assert card.memory_bytes == psutil.virtual_memory().total
    assert card.kernel.startswith(os.uname().release)
    assert card.threads["OMP_NUM_THREADS"] == "3"
    assert isinstance(card.wheels["numpy"], str)
    assert card.to_table()["meter"] == {"why": "no sensor"}
    assert card.to_table()["computing"] == {"providers": ["CPUExecutionProvider"], "threads": "2"}


def test_the_digest_names_what_is_sent(board: Path) -> None:
    card = read_card(meter=NO_METER, computing=COMPUTING, root=board)
    sent = json.loads(json.dumps(card.to_table()))
    assert digest(sent) == card.digest
    for field in dataclasses.fields(MachineCard):
        other = dataclasses.replace(card, **{field.name: "something else"})
        assert other.digest != card.digest
