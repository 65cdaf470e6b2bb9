"""The wheel matrix: every board it names is served, or refused with the reason."""

import subprocess
from pathlib import Path

import pytest

from fedcore.errors import ConfigError
from testbed.deploy.inventory import plan
from testbed.deploy.matrix import Probe, Wish, load_matrix, pins
from testbed.deploy.playbooks import folder

MATRIX = load_matrix()
PLATFORMS = {platform.name: platform for platform in MATRIX.platforms}
EVERYWHERE = {w.package for w in MATRIX.wheels if not w.only_for}


def probe(name: str, **changes: object) -> Probe:
    """What a board of this platform says."""
    platform = PLATFORMS[name]
    found = {
        "model": platform.model and f"{platform.model} 4 Model B Rev 1.4",
        "machine": "aarch64",
        "bits": "64",
        "libc": f"glibc {platform.glibc}",
        "os": platform.os or "ubuntu 1.0",
        "l4t": platform.l4t[0] if platform.l4t else "",
        "python": f"{platform.python}.9",
        "venv": "yes",
        "systemd": "yes",
        **changes,
    }
    return Probe(**found)  # type: ignore[arg-type]


def torch_of(*args: object, **kwargs: object) -> str:
    return next(pin for pin in pins(*args, **kwargs) if pin.startswith("torch="))


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_platform_is_known_by_what_it_says(name: str) -> None:
    assert MATRIX.platform(probe(name)).name == name


@pytest.mark.parametrize("extra", ["edge-torch", "edge-onnx", "edge-lava"])
@pytest.mark.parametrize("name", PLATFORMS)
def test_every_platform_is_served_or_refused_by_name(name: str, extra: str) -> None:
    board = probe(name)
    python = PLATFORMS[name].python
    serves = python in ("3.10", "3.11", "3.12", "3.13") and (
        extra != "edge-lava" or python == "3.10"
    )
    wish = Wish(extra=extra, index="https://index")
    if not serves:
        with pytest.raises(ConfigError, match=rf"^{name}.*Python {python}") as caught:
            pins(board, wish)
        assert "\n" not in str(caught.value)
        return
    packages = [pin.partition("==")[0] for pin in pins(board, wish)]
    own = {"edge-torch": "torch", "edge-onnx": "onnxruntime", "edge-lava": "lava-dl"}[extra]
    assert len(packages) == len(set(packages))
    assert {*packages} == (EVERYWHERE | {own}) - ({"numpy"} if extra == "edge-lava" else set())


@pytest.mark.parametrize("wheel", MATRIX.wheels, ids=lambda wheel: wheel.pin)
def test_every_wheel_is_some_boards(wheel) -> None:
    offers = [
        pins(probe(name), Wish(extra=wheel.only_for or "edge-onnx"))
        for name, platform in PLATFORMS.items()
        if platform.python in wheel.pythons and wheel.only_for != "edge-torch"
    ]
    offers += [pins(probe("JetPack 7"), Wish(extra="edge-torch"))]
    assert any(wheel.pin in pinned for pinned in offers)


def test_a_wheel_that_is_too_new_for_the_c_library_is_not_chosen() -> None:
    old = probe("JetPack 4", python="3.11.4")
    assert "onnxruntime==1.25.1" in pins(old, Wish(extra="edge-onnx", python="/opt/python3.11"))
    with pytest.raises(ConfigError, match=r"glibc 2.27 fit none of torch==.*; JetPack 4 \(the old"):
        pins(old, Wish(extra="edge-torch", index="https://index"))
    with pytest.raises(ConfigError, match="fit none of numpy=="):
        pins(probe("JetPack 4", python="3.11.4", libc="glibc 2.26"), Wish(extra="edge-onnx"))


def test_versions_are_numbers_not_text() -> None:
    with pytest.raises(ConfigError, match="fit none of"):
        pins(probe("Debian 12", libc="glibc 2.9"), Wish(extra="edge-onnx"))


def test_a_pi_is_not_filled_with_cuda() -> None:
    for name in ("Raspberry Pi OS 12", "Raspberry Pi OS 13", "JetPack 6", "Debian 12"):
        with pytest.raises(ConfigError, match="brings several GB of CUDA 13"):
            pins(probe(name), Wish(extra="edge-torch"))
        assert torch_of(probe(name), Wish(extra="edge-torch", index="https://cpu"))
    assert torch_of(probe("JetPack 7"), Wish(extra="edge-torch"))
    assert torch_of(probe("Debian 12", machine="x86_64"), Wish(extra="edge-torch"))


def test_a_torch_of_ones_own_is_not_pinned_against() -> None:
    pinned = pins(probe("JetPack 6"), Wish(extra="edge-torch", torch="/opt/torch.whl"))
    assert not [pin for pin in pinned if pin.startswith("torch=")]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"machine": "armv7l", "bits": "32"}, "a 32-bit system on armv7l"),
        ({"bits": "32"}, "a 32-bit system on aarch64"),
        ({"systemd": ""}, "systemd does not run it"),
        ({"libc": ""}, "its C library is not glibc"),
        ({"python": ""}, "Python is missing"),
        ({"python": "3.14.0"}, "Python 3.14.0, but Leakwatt has wheels for 3.10 to 3.13"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_refused_with_board_and_reason(
    changes: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        pins(probe("Raspberry Pi OS 12", **changes), Wish(extra="edge-onnx"))
    assert str(caught.value).startswith("Raspberry Pi OS 12 on Raspberry Pi 4 Model B Rev 1.4: ")


def test_a_laptop_that_nobody_named_is_judged_by_its_wheels() -> None:
    other = probe("Debian 12", os="fedora 43", machine="x86_64", python="3.13.1")
    assert "numpy==2.4.6" in pins(other, Wish(extra="edge-onnx"))
    with pytest.raises(ConfigError, match=r"^fedora 43: "):
        pins(other, Wish(extra="edge-lava"))


WANTED = {
    "leakwatt_extra": "edge-onnx",
    "leakwatt_index": "",
    "leakwatt_torch": "",
    "leakwatt_python": "",
    "leakwatt_requirement": "leakwatt[edge-onnx]",
    "leakwatt_digest": "abc",
    "leakwatt_groups": ["video", "i2c"],
}
SAID = """\
Welcome to your board; a=b
model=Raspberry Pi 5 Model B Rev 1.0\r
machine=aarch64
bits=64
libc=glibc 2.41
os=debian 13
l4t=
python=3.13.5
venv=
systemd=yes
groups=root daemon video leakwatt
"""


def test_a_boards_answer_becomes_what_it_gets() -> None:
    found = plan(SAID, WANTED)
    assert found["refused"] == ""
    assert found["groups"] == ["video"]  # systemd refuses a unit with a group that is not there
    assert found["needs_venv"]
    assert "onnxruntime==1.25.1\n" in found["constraints"]
    assert found["stamp"].startswith("Python 3.13.5 for edge-onnx\n")


@pytest.mark.parametrize(
    "change",
    [
        {"leakwatt_digest": "abd"},
        {"leakwatt_requirement": "leakwatt[edge-onnx,i2c]"},
        {"leakwatt_index": "https://other"},
    ],
    ids=str,
)
def test_whatever_is_to_be_installed_is_in_the_stamp(change: dict[str, str]) -> None:
    before, after = (plan(SAID, {**WANTED, **more})["stamp"] for more in ({}, change))
    assert before != after
    assert before.splitlines()[0] == after.splitlines()[0]  # the environment is kept


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("Permission denied", "the board did not say its bits, glibc|the board did not say its"),
        (SAID.replace("systemd=yes", "systemd="), "systemd does not run it"),
    ],
)
def test_a_board_that_cannot_be_served_says_why(said: str, refused: str) -> None:
    assert any(part in plan(said, WANTED)["refused"] for part in refused.split("|"))


def test_a_python_of_ones_own_must_make_environments() -> None:
    refused = plan(SAID, {**WANTED, "leakwatt_python": "/opt/py"})["refused"]
    assert "/opt/py lacks venv or ensurepip" in refused


def test_the_probe_speaks_the_language_that_is_read_here() -> None:
    script = folder() / "roles/client/files/probe.sh"
    done = subprocess.run(["sh", str(script)], capture_output=True, text=True, check=True)
    here = Probe.read(done.stdout)
    assert here.bits in ("32", "64")
    assert here.machine
    assert "root" in here.groups


def test_the_page_of_boards_shows_the_matrix() -> None:
    page = (Path(__file__).parents[2] / "docs" / "boards.md").read_text()
    for platform in MATRIX.platforms:
        assert f"| {platform.name} | {platform.python} | {platform.glibc} |" in page
    for wheel in MATRIX.wheels:
        if wheel.only_for:
            assert f"{wheel.package} {wheel.version}" in page
