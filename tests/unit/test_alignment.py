"""A signature is found again in a trace of another clock, or refused."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from fedcore.errors import MeterError
from fedcore.seeds import stream
from hardware.alignment import align, align_work, drift_note, signature
from hardware.meters.csv_replay import CsvReplay, PowerTrace

BEGIN_S = 52_000.25  # on CLOCK_MONOTONIC


def instants(begin_s: float = BEGIN_S, burn_s: float = 1.0) -> tuple[int, ...]:
    """Three burns and the pauses between them, as `signature` notes them."""
    return tuple(round((begin_s + i * burn_s) * 1e9) for i in range(6))


def trace(
    rate_hz: float,
    offset_s: float,
    *bursts: tuple[int, ...],
    noise_w: float,
    trial: int = 0,
    rate: float = 1.0,
    lasts_s: float = 60.0,
) -> PowerTrace:
    """3 W, and 7 W within a burst; the meter's clock runs at `rate` and began 20 s before."""
    rng = stream(3, "alignment", trial)
    begin_s = bursts[0][0] * 1e-9 if bursts else BEGIN_S
    mono_s = begin_s - 20 + rng.uniform(0, 1 / rate_hz) + np.arange(0, lasts_s, 1 / rate_hz)
    power_w = 3 + rng.normal(0, noise_w, mono_s.size)
    for burst in bursts:
        power_w += 4 * (np.searchsorted(np.array(burst) * 1e-9, mono_s, side="right") % 2)
    return PowerTrace(t_s=begin_s + (mono_s - begin_s) * rate - offset_s, power_w={"plug": power_w})


@pytest.mark.parametrize(("rate_hz", "noise_w"), [(1.0, 0.1), (2.0, 0.4), (10.0, 1.0)])
def test_an_offset_is_recovered_within_half_a_sample(rate_hz: float, noise_w: float) -> None:
    for trial in range(20):
        offset_s = float(stream(5, "offset", trial).uniform(-1e5, 1e5))
        recorded = trace(rate_hz, offset_s, instants(), noise_w=noise_w, trial=trial)
        found = align(recorded, instants())
        assert abs(found.offset_s - offset_s) <= 0.5 / rate_hz + 0.025 / rate_hz
        assert abs(found.offset_s - offset_s) <= found.uncertainty_s <= 0.6 / rate_hz
        assert found.correlation > 0.75


@pytest.mark.parametrize("rate_hz", [1.0, 2.0, 10.0])
def test_noise_alone_is_refused(rate_hz: float) -> None:
    for trial in range(40):
        recorded = trace(rate_hz, 0.0, noise_w=1.0, trial=trial)
        with pytest.raises(MeterError, match="does not show the signature") as caught:
            align(recorded, instants())
        assert "\n" not in str(caught.value)


def test_a_trace_without_change_or_shorter_than_the_signature_is_refused() -> None:
    with pytest.raises(MeterError, match="does not show"):
        align(trace(10.0, 0.0, noise_w=0.0), instants())
    with pytest.raises(MeterError, match=r"lasts 4.9 s, the signature with its pauses 7 s"):
        align(trace(10.0, 0.0, noise_w=0.1, lasts_s=5.0), instants())


@pytest.mark.parametrize("n_instants", [0, 2, 5])
def test_what_is_no_signature_is_refused(n_instants: int) -> None:
    with pytest.raises(MeterError, match=f"a signature of {n_instants} instants"):
        align(trace(10.0, 0.0, noise_w=0.1), instants()[:n_instants])


def test_a_drifting_clock_is_noted_and_a_steady_one_is_not() -> None:
    first, last = instants(), instants(BEGIN_S + 1800)
    for rate, noted in ((1.0, ""), (1 + 200e-6, "-0.3")):
        recorded = trace(10.0, 7.0, first, last, noise_w=0.2, rate=rate, lasts_s=1900)
        note = drift_note(align(recorded, first), align(_tail(recorded), last))
        assert bool(note) == bool(noted)
        assert noted in note
    assert "ppm" in note


def rounds(n: int, *, alike: bool = False) -> tuple[list[int], list[float]]:
    """Rounds of about 5 s of work between waits, as edges in ns and a load."""
    rng = stream(7, "rounds")
    edges_s, load = [BEGIN_S], []
    for _ in range(n):
        edges_s += [edges_s[-1] + (3.0 if alike else float(rng.uniform(2, 4)))]
        edges_s += [edges_s[-1] + 0.01, edges_s[-1] + 2.0]  # no sample sees the short gap
        load += [1.0, 0.0, 0.1]
    return [round(t * 1e9) for t in edges_s], load


def drawn(edges: list[int], load: list[float], *, offset_s: float, noise_w: float) -> PowerTrace:
    """A plug's log, once per second: 3 W and 4 W more under load, a minute before and after."""
    mono_s = np.arange(edges[0] * 1e-9 - 60.3, edges[-1] * 1e-9 + 60, 1.0)
    place = np.searchsorted(np.array(edges) * 1e-9, mono_s, side="right")
    power_w = 3 + 4 * np.array([0.0, *load, 0.0])[place]
    power_w = power_w + stream(9, "plug").normal(0, noise_w, mono_s.size)
    return PowerTrace(t_s=mono_s - offset_s, power_w={"plug": power_w})


@pytest.mark.parametrize("noise_w", [0.0, 0.8])
def test_work_itself_is_a_signature(noise_w: float) -> None:
    edges, load = rounds(12)
    found = align_work(drawn(edges, load, offset_s=777.7, noise_w=noise_w), edges, load)
    assert abs(found.offset_s - 777.7) <= found.uncertainty_s <= 0.8


@pytest.mark.parametrize(
    ("n", "recorded", "why"),
    [
        (12, rounds(12)[1][:1] * 36, "does not show the work"),  # a load that never rests
        (1, None, "1 burst of work is no pattern"),
    ],
)
def test_a_trace_of_other_work_is_refused(n: int, recorded: list[float] | None, why: str) -> None:
    edges, load = rounds(n)
    trace = drawn(edges, recorded or load, offset_s=0.0, noise_w=0.3)
    with pytest.raises(MeterError, match=why):
        align_work(trace, edges, load)


def test_work_that_fits_at_several_places_is_refused() -> None:
    """Of thirty equal rounds in the log, six are asked for: any neighbouring six would do."""
    edges, load = rounds(30, alike=True)
    trace = drawn(edges, load, offset_s=0.0, noise_w=0.3)
    with pytest.raises(MeterError, match="several places"):
        align_work(trace, edges[30:49], load[30:48])
    with pytest.raises(MeterError, match="does not hold all of it"):
        align_work(_tail(_tail(trace)), edges, load)


def _tail(recorded: PowerTrace) -> PowerTrace:
    """The second half: what is searched must hold one signature."""
    half = recorded.t_s.size // 2
    return PowerTrace(
        t_s=recorded.t_s[half:], power_w={name: w[half:] for name, w in recorded.power_w.items()}
    )


def test_a_replay_begins_at_the_aligned_instant(tmp_path: Path) -> None:
    recorded = trace(10.0, 1234.5, instants(), noise_w=0.1)
    start_ns = align(recorded, instants()).start_mono_ns(recorded)
    rows = [f"{t},{w}" for t, w in zip(recorded.t_s, recorded.power_w["plug"], strict=True)]
    (tmp_path / "log.csv").write_text("\n".join(["t_s,plug", *rows]) + "\n")
    now_ns = instants()[0] + 500_000_000  # in the middle of the first burn
    options = CsvReplay(path=str(tmp_path / "log.csv"), start_mono_ns=start_ns)
    with options.open(now_ns=lambda: now_ns) as meter:
        assert meter.read().values[0] == pytest.approx(7.0, abs=0.5)
        now_ns += 1_000_000_000
        assert meter.read().values[0] == pytest.approx(3.0, abs=0.5)


def test_a_signature_burns_and_says_when() -> None:
    begin_ns, begin_cpu_s = time.monotonic_ns(), time.process_time()
    noted = signature(n_burns=2, burn_s=0.1, pause_s=0.05)
    burnt_s = time.process_time() - begin_cpu_s
    assert len(noted) == 4
    assert list(noted) == sorted(noted)
    assert noted[0] - begin_ns >= 50_000_000
    assert time.monotonic_ns() - noted[-1] >= 50_000_000
    assert noted[1] - noted[0] >= 100_000_000
    assert noted[2] - noted[1] >= 50_000_000
    assert burnt_s > 0.05
