"""`leakwatt deploy` on a stand-in for a board: a container with systemd and an SSH server.

`make test-deploy` runs it, with Docker, for a client on torch and for one on ONNX Runtime, or for
the backends that are named. It tells of every step whether it holds; the first that does not ends
it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from fedcore.layout import RunFolder

HERE = Path(__file__).parent
NAME = "leakwatt-board"
PORT = 7443
EXPERIMENT = """\
name = "board"
n_clients = 2
data.max_examples = 400
schedule.rounds = 4
schedule.evaluate_every = 2
schedule.quorum = 2
training.batch_size = 4
strategy.name = "fedsgd"
model.spiking = true
encoding.name = "rate"
encoding.n_steps = 6

[[devices]]
name = "board"
clients = ["client-0"]
backend = "{backend}"
"""
BACKENDS = ("torch", "onnx")
BOARDS = """\
run = "latest"
aggregator = "{gateway}:7443"
leakwatt = "{wheel}"
index = "{index}"

[[boards]]
client = "client-0"
host = "{address}"
user = "pi"
key = "key"
known_hosts = "known_hosts"
extra = "edge-{backend}"
"""
# What a system writes by itself, and what Ansible leaves behind.
PASSING = (
    *("/proc", "/sys", "/dev", "/run", "/tmp", "/var/log", "/var/lib/systemd"),  # noqa: S108
    *(f"{home}/.ansible" for home in ("/home/pi", "/root")),
)
BACKUPS = re.compile(r"/etc/(passwd|group|shadow|gshadow)-?|/etc/\.pwd\.lock|.*/__pycache__/.*")


def main() -> None:
    """All steps in order, for one backend after the other."""
    for backend in sys.argv[1:] or BACKENDS:
        through(backend)


def through(backend: str) -> None:
    """Every step with a board of this backend, in a folder of its own."""
    sys.stdout.write(f"== backend {backend}\n")
    with tempfile.TemporaryDirectory(prefix="leakwatt-board-") as folder:
        place = Path(folder)
        os.chdir(place)
        try:
            gateway, address = board(place)
            leakwatt("prepare", experiment(place, backend=backend))
            own = wheel(place)
            write_boards(gateway=gateway, address=address, wheel=own, backend=backend)
            steps(gateway)
        finally:
            os.chdir(HERE)
            docker("rm", "--force", NAME, check=False)


def steps(gateway: str) -> None:
    """From a bare board to a bare board."""
    found = files()
    told("a dry run changes nothing", deploy("--check") > 0 and files() == found)
    told("a board that cannot be served is refused by name", refusal() and files() == found)
    told("deployed", deploy() > 0)
    told("deployed again: changed=0", deploy() == 0)
    told("status: active", status()["state"] == "active")
    said = docker_exec("udevadm test /sys/class/net/lo 2>&1")
    read = [line for line in said.splitlines() if "60-leakwatt.rules" in line]
    told(f"udev reads its rule, and has nothing against it: {read}", len(read) == 1)
    secrets = ssh("find /opt/leakwatt/client -type f -printf '%m %u\\n' | sort -u")
    told(f"its own files are its own: {secrets!r}", secrets == "600 leakwatt")

    federate(gateway)
    wait_for("the deployed client went home with its records", lambda: at_home(records=4))
    told("its log says so", "update accepted" in leakwatt("deploy", "logs", "--lines", "200"))
    told("records are collected", "client-0: 4 new records" in leakwatt("deploy", "collect"))
    told("... once", "client-0: 0 new records" in leakwatt("deploy", "collect"))
    (run,) = Path("runs").iterdir()
    ours = sorted((RunFolder(run).vault / "client-0").rglob("*.sealed"))
    told("... into the run's vault", len(ours) == 4)

    told("started again by up", deploy() > 0 and status()["state"] == "active")
    ssh(f"kill -9 {pid()}")
    wait_for("systemd starts a killed client again", lambda: status()["restarts"] == "1")
    hung = pid()
    ssh(f"kill -STOP {hung} && touch -d '10 minutes ago' /run/leakwatt/pulse")
    ssh("systemctl start leakwatt-watchdog.service")
    told("the watchdog starts a hung client again", pid() not in ("0", hung))
    alive = pid()
    ssh("systemctl start leakwatt-watchdog.service")
    told("... and leaves a live one alone", pid() == alive)

    told("the same update changes nothing", deploy(action="update") == 0 and pid() == alive)
    change_wheel()
    told("another wheel is installed", deploy(action="update") > 0)
    told(
        "... its code runs", "changed" in ssh("cat /opt/leakwatt/venv/lib/*/*/edge_client/mark.py")
    )
    told("... in a client started again", pid() not in ("0", alive))
    told("... once", deploy(action="update") == 0)

    told("removed", deploy(action="remove") > 0)
    left = {name for name in files() ^ found if not BACKUPS.fullmatch(name)}
    told(f"nothing is left: {sorted(left)}", not left)
    told("no user is left", "leakwatt" not in ssh("cat /etc/passwd /etc/group"))
    told("removed again: changed=0", deploy(action="remove") == 0)


def board(place: Path) -> tuple[str, str]:
    """Start the container; this machine's address as it sees it, and its own."""
    context = place / "context"
    context.mkdir()
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "key")
    shutil.copy("key.pub", context / "authorized_keys")
    shutil.copy(HERE / "Dockerfile", context)
    docker("build", "--quiet", "--tag", NAME, str(context))
    docker("rm", "--force", NAME, check=False)
    docker(
        *("run", "--detach", "--name", NAME, "--cap-add", "SYS_ADMIN", "--cgroupns", "private"),
        *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
        *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp", NAME),  # noqa: S108
    )
    networks = "{{range .NetworkSettings.Networks}}{{.Gateway}} {{.IPAddress}}{{end}}"
    gateway, address = docker("inspect", "--format", networks, NAME).split()
    wait_for(
        "systemd runs the board", lambda: "running" in docker_exec("systemctl is-system-running")
    )
    host_key = docker_exec("cat /etc/ssh/ssh_host_ed25519_key.pub")
    Path("known_hosts").write_text(f"{address} {host_key}\n")
    return gateway, address


def experiment(place: Path, *, backend: str) -> str:
    """A small one."""
    file = place / "board.toml"
    file.write_text(EXPERIMENT.format(backend=backend))
    return str(file)


def wheel(place: Path) -> str:
    """Of this checkout, built once, so that an edit meanwhile is not a change."""
    root = str(HERE.parents[1])
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", ".", root)
    return next(place.glob("*.whl")).name


def change_wheel() -> None:
    """The same version with one more module."""
    with zipfile.ZipFile(next(Path().glob("*.whl")), "a") as archive:
        archive.writestr("edge_client/mark.py", '"""changed"""\n')


def write_boards(**values: str) -> None:
    """The boards file."""
    index = os.environ.get("TORCH_INDEX", "")
    Path("boards.toml").write_text(BOARDS.format(index=index, **values))


def federate(gateway: str) -> None:
    """Aggregator and the other client outside the board, until every round is done."""
    (folder,) = Path("runs").iterdir()
    services = Path(".leakwatt") / folder.name / "services"
    listen = f"{gateway}:{PORT}"
    aggregator = start(
        "aggregator", "--run", folder, "--certs", services / "aggregator", "--listen", listen
    )
    other = start(
        *("client", "--config", services / "client-1" / "client.toml"),
        *("--aggregator", listen, "--vault", folder / "vault"),
    )
    try:
        told("every round was folded, with an update of the board's", aggregator.wait(300) == 0)
        told("the other client went home", other.wait(60) == 0)
    finally:
        for process in (aggregator, other):
            process.kill()


def deploy(*options: str, action: str = "up") -> int:
    """How many tasks changed something."""
    said = leakwatt("deploy", action, *options)
    recap = re.findall(r"^client-0 .*changed=(\d+) .*unreachable=0 +failed=0", said, re.MULTILINE)
    return int(recap[-1])


def refusal() -> bool:
    """Whether a Python that is not there is told, with what would do."""
    file = Path("boards.toml")
    good = file.read_text()
    file.write_text(f'{good}python = "/opt/none"\n')
    said = run(sys.executable, "-m", "testbed.cli", "deploy", check=False)
    file.write_text(good)
    return "Debian 12: Python is missing, but Leakwatt has wheels for 3.10 to 3.13" in said


def status() -> dict[str, str]:
    """What `deploy status` says, by column."""
    head, row = leakwatt("deploy", "status").splitlines()
    return dict(zip(re.split(r"\s{2,}", head), re.split(r"\s{2,}", row), strict=True))


def at_home(*, records: int) -> bool:
    """Whether the board's client ended well and sealed what it sent."""
    now = status()
    return (now["state"], now["code"], now["records"]) == ("inactive", "0", str(records))


def pid() -> str:
    """Of the board's client; "0" if none runs."""
    return ssh("systemctl show leakwatt-client.service --property=MainPID --value")


def files() -> frozenset[str]:
    """Of the whole board, but for what passes."""
    pruned = " -o ".join(f"-path {path}" for path in PASSING)
    return frozenset(docker_exec(f"find / \\( {pruned} \\) -prune -o -print").splitlines())


def ssh(command: str) -> str:
    """As root on the board."""
    address = Path("known_hosts").read_text().split()[0]
    options = ("-i", "key", "-o", "UserKnownHostsFile=known_hosts", "-o", "BatchMode=yes")
    return run("ssh", *options, f"pi@{address}", f"sudo sh -c {quoted(command)}")


def quoted(command: str) -> str:
    """One word for a shell."""
    return "'" + command.replace("'", "'\\''") + "'"


def leakwatt(*arguments: str) -> str:
    """The command, as a person gives it."""
    return run(sys.executable, "-m", "testbed.cli", *arguments)


def start(*arguments: object) -> subprocess.Popen[bytes]:
    """A service outside the board."""
    words = [sys.executable, "-m", "testbed.cli", *map(str, arguments)]
    return subprocess.Popen(words, stderr=subprocess.DEVNULL)


def docker(*arguments: str, check: bool = True) -> str:
    """Docker's own command."""
    return run("docker", *arguments, check=check)


def docker_exec(command: str) -> str:
    """In the container, whatever its exit code."""
    return docker("exec", NAME, "sh", "-c", command, check=False)


def run(*command: str, check: bool = True) -> str:
    """A command's output; if it fails, all that it said, and the end."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if check and done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout.strip()


def told(what: str, holds: bool) -> None:
    """One line; the end if it does not hold."""
    sys.stdout.write(f"{'holds' if holds else 'FAILS'}  {what}\n")
    sys.stdout.flush()
    if not holds:
        sys.exit(1)


def wait_for(what: str, holds: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Ask again until it holds."""
    end_s = time.monotonic() + within_s
    while not holds() and time.monotonic() < end_s:
        time.sleep(1)
    told(what, holds())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
