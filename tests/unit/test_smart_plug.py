"""Smart plugs behind a real HTTP server: three makers, and a network that misbehaves."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fedcore.errors import ConfigError
from hardware.meters.base import NoSensorError
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


class Plug:
    """A server whose answers are set by path; other paths are unknown to it."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.status, self.delay_s, self.is_gone = 200, 0.0, False
        self.connections: set[tuple[str, int]] = set()
        plug = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                plug.connections.add(self.client_address)
                if plug.is_gone:
                    self.close_connection = True
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
