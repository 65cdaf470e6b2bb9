"""Smart plugs on the local network, asked over HTTP: Shelly (both generations) and Tasmota."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from fedcore.energy import Boundary
from fedcore.errors import ConfigError
from hardware.meters.base import (
    Clock,
    Meter,
    MeterInfo,
    NoSensorError,
    OpenMeter,
    OpenRails,
    Rail,
)
from hardware.meters.http_digest import answer_to

__all__ = ["SmartPlug"]

_TIMEOUT_S = 1.0
_UPDATE_S = 1.0
_LONGEST_ANSWER = 1 << 16
_USER = "admin"  # the only one a Shelly has

_GAIN_ERROR, _OFFSET_ERROR_W = 0.02, 1.0
"""Ours: makers state 1 to 2 % at a resistive load, and plugs are poor below 5 W."""

_MAX_POWER_W = 3680.0
"""16 A at 230 V."""


class _Api(NamedTuple):
    """Where a maker's plug tells its power in W, and in what steps."""

    path: str
    power: Callable[[Any, int], Any]
    resolution_w: float


def _gen1_power(answer: Any, channel: int) -> Any:
    meter = answer["meters"][channel]
    return meter["power"] if meter.get("is_valid", True) else None


def _tasmota_power(answer: Any, channel: int) -> Any:
    power = answer["StatusSNS"]["ENERGY"]["Power"]
    return power[channel] if isinstance(power, list) or channel else power


_APIS = {
    "shelly": _Api("/rpc/Switch.GetStatus?id={channel}", lambda answer, _: answer["apower"], 0.1),
    "shelly-gen1": _Api("/status", _gen1_power, 0.1),
    "tasmota": _Api("/cm?cmnd=Status%208", _tasmota_power, 1.0),
}
"""Tasmota prints whole watts unless told otherwise (WattRes)."""


@dataclass(frozen=True, kw_only=True)
class SmartPlug(Meter):
    """Power at the wall: with the supply's loss, the radio, the carrier and all on the same plug.

    For long runs, and to cross-check another meter; never for a round of two seconds. A plug's own
    energy counter (steps of 3.6 J to 3.6 kJ, of unknown age) is not read.

    Attributes:
        host: name or address, with ":port" where it is not 80.
        api: "auto" tries "shelly" (second generation and later), "shelly-gen1" and "tasmota".
        channel: which outlet of a strip, from 0.
        password_file: whose first line is the password of a plug that asks for one by digest
            (Shelly's second generation, whose user is always "admin"); "" for none. A file, since
            options are recorded.
    """

    host: str
    api: Literal["auto", "shelly", "shelly-gen1", "tasmota"] = "auto"
    channel: int = 0
    password_file: str = ""

    def __post_init__(self) -> None:
        if not self.host or "/" in self.host:
            raise ConfigError(f"host must be a name or an address, no URL; got {self.host!r}")
        if self.channel < 0:
            raise ConfigError(f"channel must be >= 0; got {self.channel}")

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Connect, and find out what the plug speaks.

        Raises:
            NoSensorError: nothing answers there, or not as a plug that measures.
        """
        try:
            link = http.client.HTTPConnection(self.host, timeout=_TIMEOUT_S)
        except http.client.InvalidURL as error:
            raise ConfigError(f"host {self.host!r}: {error}") from error
        plug = _Link(link, password=self._password())
        with contextlib.ExitStack() as opened:
            opened.callback(link.close)
            name, api = self._find(plug)
            info = MeterInfo(
                name="smart-plug",
                version="1",
                rails=(
                    Rail(
                        name=f"{name}-{self.channel}",
                        boundary=Boundary.WALL_AC,
                        kind="power",
                        resolution=api.resolution_w,
                        gain_error=_GAIN_ERROR,
                        max_power_w=_MAX_POWER_W,
                        update_s=_UPDATE_S,
                        offset_error_w=_OFFSET_ERROR_W,
                    ),
                ),
                period_s=_UPDATE_S,
                notes=(
                    "power supply, radio, carrier board and all else on the plug are included",
                    "one value per second, poor below 5 W",
                ),
            )
            reader = functools.partial(_read_w, plug, api, self.channel)
            return OpenRails(info, [reader], opened=opened.pop_all(), now_ns=now_ns)

    def _password(self) -> str:
        if not self.password_file:
            return ""
        try:
            first, *_ = Path(self.password_file).expanduser().read_text().splitlines() or [""]
        except (OSError, ValueError) as error:
            raise ConfigError(f"password_file: {error}") from error
        if not first:
            raise ConfigError(f"password_file {self.password_file!r}: its first line is empty")
        return first

    def _find(self, plug: _Link) -> tuple[str, _Api]:
        wanted = _APIS if self.api == "auto" else {self.api: _APIS[self.api]}
        reasons = []
        for name, api in wanted.items():
            try:
                _read_w(plug, api, self.channel)
            except OSError as error:
                raise NoSensorError(
                    f"{self.host}: {error}",
                    fix="check the plug's address, and that it is on this machine's network",
                ) from error
            except ValueError as error:
                reasons.append(f"{name}: {error}")
            else:
                return name, api
        raise NoSensorError(
            f"{self.host}: {'; '.join(reasons)}",
            fix="give host the address of a Shelly or Tasmota plug that measures power; a password "
            "goes into a file, named by --option password_file=",
        )


@dataclass
class _Link:
    """A connection that is kept; after a failure the next question connects anew."""

    connection: http.client.HTTPConnection
    password: str

    def get(self, path: str) -> bytes:
        """The body of an answer, with the password where it is asked for.

        Raises:
            OSError: no connection, or no answer in time.
            ValueError: an answer that is none.
        """
        answer, body = self._ask(path)
        challenge = answer.headers.get("WWW-Authenticate", "")
        if answer.status == http.client.UNAUTHORIZED and challenge and self.password:
            word = answer_to(challenge, user=_USER, password=self.password, path=path)
            answer, body = self._ask(path, {"Authorization": word})
        if answer.status != http.client.OK:
            raise ValueError(f"HTTP status {answer.status} {answer.reason}")
        return body

    def _ask(
        self, path: str, headers: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[http.client.HTTPResponse, bytes]:
        try:
            self.connection.request("GET", path, headers=headers)
            answer = self.connection.getresponse()
            body = answer.read(_LONGEST_ANSWER)
        except OSError:
            self.connection.close()
            raise
        except http.client.HTTPException as error:
            self.connection.close()
            raise OSError(f"no HTTP answer ({error!r})") from error
        if not answer.isclosed():  # more is to come, which would answer the next question
            self.connection.close()
            raise ValueError(f"an answer of more than {_LONGEST_ANSWER} bytes")
        return answer, body


def _read_w(plug: _Link, api: _Api, channel: int) -> float:
    """Ask once.

    Raises:
        OSError: no connection, or no answer in time.
        ValueError: an answer that tells no power.
    """
    body = plug.get(api.path.format(channel=channel))
    try:
        return _power_w(json.loads(body), api, channel)
    except (OverflowError, RecursionError) as error:
        raise ValueError(f"an answer that no plug gives ({error})") from error


def _power_w(answer: Any, api: _Api, channel: int) -> float:
    try:
        power_w = api.power(answer, channel)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"no power of outlet {channel} in {str(answer)[:80]}") from error
    is_number = isinstance(power_w, int | float) and not isinstance(power_w, bool)
    if not is_number or not math.isfinite(power_w) or power_w < 0:
        raise ValueError(f"a power of {power_w!r}, expected W")
    return float(power_w)
