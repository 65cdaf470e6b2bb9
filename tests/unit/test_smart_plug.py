"""Smart plugs behind a real HTTP server: three makers, and a network that misbehaves."""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import ConfigError
from hardware.meters.base import NoSensorError
from hardware.meters.http_digest import answer_to
from hardware.meters.smart_plug import SmartPlug

SHELLY = "/rpc/Switch.GetStatus?id=0"
TASMOTA = "/cm?cmnd=Status%208"
SHELLY_SAYS = {
    "id": 0,
    "output": True,
    "apower": 7.3,
    "voltage": 231.4,
    "current": 0.061,
    "aenergy": {"total": 15.125, "by_minute": [0.0, 0.0, 0.0], "minute_ts": 1675718520},
}
GEN1_SAYS = {
    "meters": [
        {"power": 8.21, "is_valid": True, "total": 412},
        {"power": 3.5, "is_valid": False, "total": 0},
    ]
}
TASMOTA_SAYS = {
    "StatusSNS": {"Time": "2026-01-06T20:06:19", "ENERGY": {"Total": 0.003, "Power": 6}}
}


CHALLENGE = (
    'Digest qop="auth", realm="shellyplugus-1", nonce="60dc2c69", algorithm=SHA-256, '
    'opaque="some, thing"'
)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Plug:
    """A server whose answers are set by path; other paths are unknown to it."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.status, self.delay_s, self.is_gone = 200, 0.0, False
        self.password = ""  # asked for by digest, where there is one
        self.connections: set[tuple[str, int]] = set()
        plug = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                plug.connections.add(self.client_address)
                if plug.is_gone:
                    self.close_connection = True
                    return
                if plug.password and not plug.knows(self.headers["Authorization"], self.path):
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", CHALLENGE)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                said = plug.answers.get(self.path)
                body = said if isinstance(said, bytes) else json.dumps(said).encode()
                time.sleep(plug.delay_s)
                self.send_response(404 if said is None else plug.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                return  # the meter hung up

        self._server = Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def knows(self, word: str | None, path: str) -> bool:
        """RFC 7616, 3.4.1, with what the client claims."""
        said = dict(re.findall(r'(\w+)="?([^",]*)"?', word or ""))
        if not said:
            return False
        proof = sha256(f"admin:shellyplugus-1:{self.password}")
        tail = f"60dc2c69:{said['nc']}:{said['cnonce']}:auth:{sha256(f'GET:{path}')}"
        return bool(said["uri"] == path and said["response"] == sha256(f"{proof}:{tail}"))

    def vanish(self) -> None:
        self.is_gone = True
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plug]:
    monkeypatch.setattr("hardware.meters.smart_plug._TIMEOUT_S", 0.5)
    made = Plug()
    yield made
    made.vanish()


@pytest.mark.parametrize("api", ["auto", None])
@pytest.mark.parametrize(
    ("name", "path", "says", "watt"),
    [
        ("shelly", SHELLY, SHELLY_SAYS, 7.3),
        ("shelly-gen1", "/status", GEN1_SAYS, 8.21),
        ("tasmota", TASMOTA, TASMOTA_SAYS, 6.0),
    ],
)
def test_each_maker_is_found_and_read_over_one_connection(
    plug: Plug, api: str | None, name: str, path: str, says: object, watt: float
) -> None:
    plug.answers[path] = says
    with SmartPlug(host=plug.host, api=api or name).open() as meter:  # type: ignore[arg-type]
        (rail,) = meter.info.rails
        assert (rail.name, rail.boundary.value, rail.kind) == (f"{name}-0", "wall-ac", "power")
        for _ in range(3):
            assert meter.read().values == pytest.approx((watt,))
        assert meter.info.period_s == 1.0
        assert "radio" in meter.info.notes[0]
    assert len(plug.connections) == 1


def test_an_outlet_of_a_strip_is_chosen_by_its_channel(plug: Plug) -> None:
    plug.answers[TASMOTA] = {"StatusSNS": {"ENERGY": {"Power": [5, 9]}}}
    with SmartPlug(host=plug.host, channel=1).open() as meter:
        assert meter.read().values == (9.0,)
    with pytest.raises(NoSensorError, match="no power of outlet 2"):
        SmartPlug(host=plug.host, channel=2).open()
    plug.answers = {"/status": GEN1_SAYS}
    with pytest.raises(NoSensorError, match="a power of None"):
        SmartPlug(host=plug.host, channel=1).open()


def test_a_password_is_proved_by_digest_from_a_file(plug: Plug, tmp_path: Path) -> None:
    plug.answers[SHELLY], plug.password = SHELLY_SAYS, "ours alone"
    file = tmp_path / "plug.password"
    file.write_text("ours alone\n")
    with SmartPlug(host=plug.host, password_file=str(file)).open() as meter:
        for _ in range(2):
            assert meter.read().values == pytest.approx((7.3,))
    assert len(plug.connections) == 1
    with pytest.raises(NoSensorError, match=r"HTTP status 401.*password_file="):
        SmartPlug(host=plug.host).open()
    file.write_text("another's\n")
    with pytest.raises(NoSensorError, match="HTTP status 401") as caught:
        SmartPlug(host=plug.host, password_file=str(file)).open()
    assert "another" not in str(caught.value)
    file.write_text("")
    for name in (file, tmp_path / "none"):
        with pytest.raises(ConfigError, match="password_file"):
            SmartPlug(host=plug.host, password_file=str(name)).open()


def test_the_answer_to_a_challenge_is_the_rfcs(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 7616, 3.9.1."""
    own = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    monkeypatch.setattr("secrets.token_hex", lambda _: own)
    challenge = (
        'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
        'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    said = answer_to(challenge, user="Mufasa", password="Circle of Life", path="/dir/index.html")  # noqa: S106
    assert "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1" in said
    for other in ("Basic realm=x", challenge.replace("SHA-256", "MD5"), "Digest qop=auth"):
        with pytest.raises(ValueError, match="expected Digest with SHA-256"):
            answer_to(other, user="a", password="b", path="/")  # noqa: S106


Trouble = Callable[[Plug], None]


def says(body: object) -> Trouble:
    return lambda plug: plug.answers.update({SHELLY: body})


TROUBLES: list[tuple[Trouble, str]] = [
    (lambda plug: setattr(plug, "delay_s", 1.0), "timed out"),
    (lambda plug: setattr(plug, "status", 500), "HTTP status 500"),
    (lambda plug: setattr(plug, "status", 401), "HTTP status 401"),
    (says(b"<html>"), "Expecting value"),
    (says(b"\xff\xfe\xfd"), "decode"),
    (says(b""), "Expecting value"),
    (says(b" " * 100_000), "more than"),
    (says({"id": 0}), "no power of outlet 0"),
    (says([1, 2]), "no power of outlet 0"),
    (says({"apower": None}), "a power of None"),
    (says({"apower": "7"}), "a power of '7'"),
    (says({"apower": True}), "a power of True"),
    (says({"apower": -3.0}), "a power of -3.0"),
    (says(b'{"apower": NaN}'), "a power of nan"),
    (says(b'{"apower": 1%s}' % (b"0" * 400)), "no plug gives"),
    (says(b"[" * 50_000), "no plug gives"),
]


@pytest.mark.parametrize(("trouble", "why"), TROUBLES)
def test_a_bad_answer_is_missing_and_the_next_good_one_is_read(
    plug: Plug, trouble: Trouble, why: str
) -> None:
    plug.answers[SHELLY] = SHELLY_SAYS
    with SmartPlug(host=plug.host).open() as meter:
        trouble(plug)
        begin_s = time.monotonic()
        sample = meter.read()
        assert time.monotonic() - begin_s < 0.9
        assert math.isnan(sample.values[0])
        assert why in sample.fault
        plug.status, plug.delay_s, plug.answers[SHELLY] = 200, 0.0, SHELLY_SAYS
        assert meter.read().values == pytest.approx((7.3,))


def test_a_plug_that_vanishes_is_missing(plug: Plug) -> None:
    plug.answers[SHELLY] = SHELLY_SAYS
    with SmartPlug(host=plug.host).open() as meter:
        assert meter.read().fault == ""
        plug.vanish()
        for why in ("closed connection", "refused"):
            sample = meter.read()
            assert math.isnan(sample.values[0])
            assert why in sample.fault
    with pytest.raises(NoSensorError, match=r"refused.*check the plug's address"):
        SmartPlug(host=plug.host).open()


def test_what_is_no_plug_and_no_host_is_told_in_one_line(plug: Plug) -> None:
    with pytest.raises(NoSensorError, match=r"shelly: HTTP status 404.*tasmota: HTTP") as caught:
        SmartPlug(host=plug.host).open()
    assert "\n" not in str(caught.value)
    for host in ("http://192.0.2.1", "", "plug:port"):
        with pytest.raises(ConfigError, match="host"):
            SmartPlug(host=host).open()
    with pytest.raises(ConfigError, match="channel"):
        SmartPlug(host="plug", channel=-1)
