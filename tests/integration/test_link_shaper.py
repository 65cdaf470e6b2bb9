"""A relay imitates a slow link: what it does to times, and that it does nothing to bytes."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedcore.devices import LinkShape
from testbed.link_shaper import Direction, main

MEBIBYTE = 1 << 20


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Path]:
    """The address of a server that answers every message with itself."""
    listening = socket.create_server(("127.0.0.1", 0))

    def echo(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    file = tmp_path / "upstream"
    file.write_text(f"127.0.0.1:{listening.getsockname()[1]}\n")
    yield file
    listening.close()


def connect(address_file: Path) -> socket.socket:
    give_up_s = time.monotonic() + 20
    while not address_file.exists():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)
    host, port = address_file.read_text().split(":")
    return socket.create_connection((host, int(port)), timeout=20)


@pytest.fixture
def link(tmp_path: Path, upstream: Path):
    """Start relays with these options and connect to them; everything ends with the test."""
    started: list[subprocess.Popen[bytes]] = []
    connections = contextlib.ExitStack()

    def start(*options: str) -> socket.socket:
        address = tmp_path / f"address-{len(started)}"
        command = ["-m", "testbed.link_shaper", "--upstream", upstream, "--address-file", address]
        started.append(subprocess.Popen([sys.executable, *map(str, command), *options]))
        return connections.enter_context(connect(address))

    yield start
    connections.close()
    for process in started:
        process.kill()
        process.wait()


def round_trip(connection: socket.socket, data: bytes) -> float:
    """Seconds until all of it is back."""
    begin_s = time.monotonic()
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    back = bytearray()
    while len(back) < len(data):
        piece = connection.recv(1 << 16)
        assert piece, "the link hung up"
        back += piece
    sender.join()
    assert bytes(back) == data
    return time.monotonic() - begin_s


def test_latency_and_bandwidth_are_what_was_asked_for(link) -> None:
    far = link("--latency-ms", "80")
    assert 0.16 <= round_trip(far, b"ping") < 1.0
    narrow = link("--bandwidth-mbit-s", "16")
    data = random.Random(0).randbytes(MEBIBYTE)
    assert 0.52 <= round_trip(narrow, data) < 2.0  # 8.4 Mbit, both ways at the same time


def test_losses_take_time_and_no_bytes(link) -> None:
    lossy = link("--latency-ms", "5", "--loss", "0.02")
    data = random.Random(0).randbytes(MEBIBYTE // 2)
    rate = 1460 * (1.5 / 0.02) ** 0.5 / 0.01
    assert round_trip(lossy, data) > len(data) / rate


def test_a_relay_outlives_an_aggregator_that_is_not_there(link, upstream: Path) -> None:
    there = upstream.read_text()
    upstream.write_text("127.0.0.1:1\n")
    connection = link()
    place = connection.getpeername()
    assert connection.recv(1) == b""  # hung up: the client will try again
    upstream.write_text(there)
    with socket.create_connection(place, timeout=20) as again:
        round_trip(again, b"ping")


def test_arrivals_in_one_direction() -> None:
    plain = Direction(LinkShape(latency_ms=10.0, bandwidth_mbit_s=8.0))
    assert plain.arrival_s(1000, now_s=5.0) == pytest.approx(5.0 + 0.001 + 0.01)
    assert plain.arrival_s(1000, now_s=5.0) == pytest.approx(5.0 + 0.002 + 0.01)  # behind the first
    assert plain.arrival_s(1000, now_s=9.0) == pytest.approx(9.0 + 0.001 + 0.01)
    lossy = Direction(LinkShape(latency_ms=10.0, loss=0.5), draw=random.Random(0))
    n_packets = 1000
    late_s = lossy.arrival_s(n_packets * 1460, now_s=0.0) - 0.01
    at_rate_s = n_packets * 1460 / lossy.rate_bytes_s
    assert (late_s - at_rate_s) / lossy.round_trip_s == pytest.approx(500, abs=60)


def test_a_link_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--upstream", "a", "--address-file", "b", "--loss", "1.5"]
    assert main(options) == 2
    assert capsys.readouterr().err == "link: loss must lie in [0, 1); got 1.5\n"
