"""What a service did, for a Prometheus server to scrape: joules and seconds by phase.

Measured and modelled joules are different metrics: no query adds them by mistake. Readings of
several clients behind one meter carry the label shared="n" and are not to be added over clients.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fedcore.energy import PhaseRecord, PhaseReport
from fedcore.errors import ConfigError
from fedcore.types import Missing

__all__ = ["Family", "PhaseTotals", "serve_metrics"]

Family = tuple[str, str, tuple[str, ...], dict[tuple[str, ...], float]]
"""Name, meaning, names of the labels, and a value by the labels' values."""

_SHARED = re.compile(r"shared\((\d+)\)")
_BY = ("client", "phase")
_METRICS = {
    "phase_seconds": ("wall time", _BY),
    "phase_cpu_seconds": ("CPU time of the client process", _BY),
    "measured_joules": (
        "energy that a meter measured",
        (*_BY, "meter", "rail", "boundary", "shared"),
    ),
    "modelled_joules": ("MODELLED energy: an estimate", (*_BY, "model")),
    "phases_without_reading": ("phases that no meter measured", _BY),
}


@contextlib.contextmanager
def serve_metrics(address: str, families: Callable[[], Iterable[Family]]) -> Iterator[str]:
    """Answer scrapes at http://ADDRESS/metrics meanwhile; yields the address that it got.

    Args:
        address: HOST:PORT; port 0 takes a free one.
        families: asked at every scrape, from a thread of its own; all are counters.

    Raises:
        ConfigError: the address cannot be listened on, or prometheus-client is not installed.
    """
    try:
        import prometheus_client
        from prometheus_client.core import CounterMetricFamily
    except ModuleNotFoundError as error:
        raise ConfigError(
            "metrics need the package prometheus-client: pip install 'leakwatt[prometheus]'"
        ) from error

    class Collector:
        def collect(self) -> Iterator[Any]:
            for name, meaning, labels, values in families():
                metric = CounterMetricFamily(f"leakwatt_{name}", meaning, labels=labels)
                for of, value in sorted(values.items()):
                    metric.add_metric(of, value)
                yield metric

    registry = prometheus_client.CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    host, _, port = address.rpartition(":")
    try:
        server, thread = prometheus_client.start_http_server(int(port), host, registry)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"metrics: cannot listen on {address!r}, HOST:PORT ({error})") from error
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class PhaseTotals:
    """Seconds and joules of all phases reported so far.

    A ticket's later attempt repeats what the earlier ones said and takes their place, so attempts
    have to come one after the other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: PhaseReport | None = None
        self._sums: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in _METRICS}

    def add(self, report: PhaseReport) -> None:
        """Count a report."""
        with self._lock:
            if self._latest and self._latest.ticket != report.ticket:
                _add_to(self._sums, self._latest)
            self._latest = report

    def families(self) -> list[Family]:
        """The totals now."""
        with self._lock:
            sums = {name: dict(values) for name, values in self._sums.items()}
            latest = self._latest
        if latest:
            _add_to(sums, latest)
        return [(name, *_METRICS[name], sums[name]) for name in _METRICS]


def _add_to(sums: dict[str, dict[tuple[str, ...], float]], report: PhaseReport) -> None:
    for record in report.phases:
        for name, more, value in _values(record):
            key = (report.ticket.client_id, record.phase.value, *more)
            sums[name][key] = sums[name].get(key, 0.0) + value


def _values(record: PhaseRecord) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Metric, further labels, what to add."""
    yield "phase_seconds", (), record.duration_s
    yield "phase_cpu_seconds", (), record.cpu_s
    if not isinstance(record.modelled, Missing):
        yield "modelled_joules", (record.modelled.model,), record.modelled.energy_j
    if isinstance(record.measured, Missing):
        yield "phases_without_reading", (), 1
        return
    for reading in record.measured:
        shared = [match[1] for flag in reading.flags if (match := _SHARED.fullmatch(flag))]
        n_clients = shared[0] if shared else "1"
        source = reading.meter, reading.rail, reading.boundary.value, n_clients
        yield "measured_joules", source, reading.energy_j
