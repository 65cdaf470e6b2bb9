"""What a board's own sensor says, turned into what a better meter in its feed would have said.

P_reference = gain P_internal + offset_w, fitted on both meters' readings of the same minutes and
kept as a TOML file whose digest makes a changed number known.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedcore.energy import Boundary
from fedcore.errors import ConfigError, MeterError
from fedcore.registry import nearest
from fedcore.strict import digest, parse, to_table
from fedcore.toml import read_toml
from hardware.meters.base import Rail
from hardware.meters.csv_replay import PowerTrace

__all__ = ["Calibration", "calibrations", "fit", "load_calibration", "save_calibration"]

_SHIPPED = Path(__file__).parent / "calibrations"
_FEWEST_WINDOWS = 20  # ours
_LEAST_SPREAD = 0.15  # ours: standard deviation over mean of the internal power
_LEAST_CORRELATION = 0.8  # ours: below, the two did not see the same load


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A straight line from a sensor's power to a reference's, and how sure it is.

    Attributes:
        board: model of the board it was made on, as the device tree names it.
        meter: name of the calibrated meter.
        reference: the meter it was compared with, or the publication it is taken from.
        date: day of the fit, YYYY-MM-DD.
        boundary: what the reference measured.
        gain: W of the reference per W of the sensor.
        offset_w: what the reference shows where the sensor shows nothing, in W.
        gain_error: half-width of the 95 % interval of the calibrated power's scale, relative.
        offset_error_w: half-width of the 95 % interval of its constant error, in W.
        residual_w: root mean square of what the line misses, in W.
        n: windows it rests on; 0 where it is literature.
    """

    board: str
    meter: str
    reference: str
    date: str
    boundary: Boundary
    gain: float
    offset_w: float
    gain_error: float
    offset_error_w: float
    residual_w: float
    n: int = 0

    def __post_init__(self) -> None:
        if not self.gain > 0:
            raise ConfigError(f"gain must be > 0; got {self.gain}")
        if not (self.gain_error >= 0 and self.offset_error_w >= 0 and self.residual_w >= 0):
            raise ConfigError("gain_error, offset_error_w and residual_w must be >= 0")

    def apply(self, power_w: float) -> float:
        """The reference's power where the sensor shows `power_w`, in W."""
        return self.gain * power_w + self.offset_w

    def rail(self, name: str, internal: Rail) -> Rail:
        """The calibrated twin of a sensor's power rail."""
        return replace(
            internal,
            name=name,
            boundary=self.boundary,
            resolution=self.gain * internal.resolution,
            max_power_w=self.apply(internal.max_power_w),
            gain_error=self.gain_error,
            offset_error_w=self.offset_error_w,
        )

    def flags(self, rail: str, *, board: str) -> tuple[str, ...]:
        """What readings of the calibrated rail carry on this board."""
        raised = {"literature": self.n == 0, "other-board": not board.startswith(self.board)}
        return tuple(f"{flag}({rail})" for flag, is_raised in raised.items() if is_raised)


def fit(
    internal: PowerTrace,
    reference: PowerTrace,
    *,
    board: str,
    meter: str,
    reference_meter: str,
    date: str,
    boundary: Boundary = Boundary.BOARD_DC_INPUT,
    window_s: float = 2.0,
) -> Calibration:
    """Fit a line to the mean powers of common windows, by weighted least squares.

    A window in which the load jumps tells less, since the two meters do not sample the jump at the
    same instants: it weighs by the inverse variance of its two means. What the line misses stays
    as `offset_error_w` (2 residuals, not divided by the root of n: it may be a curve, not noise).

    Args:
        internal: the sensor; its rails, which are disjoint, are added.
        reference: the better meter on the same clock; its rails are added too.
        board: model of the board.
        meter: name of the sensor's meter.
        reference_meter: name of the reference.
        date: YYYY-MM-DD.
        boundary: what the reference measures.
        window_s: length of a window; at least two samples of the slower meter.

    Raises:
        MeterError: too few windows, too little spread of loads, or two traces that do not agree.
    """
    windows = _common_windows(internal, reference, window_s)
    if len(windows) < _FEWEST_WINDOWS:
        raise MeterError(
            f"{len(windows)} windows of {window_s:g} s hold samples of both meters, expected at "
            f"least {_FEWEST_WINDOWS}; record both for longer"
        )
    x, y, variance = windows.T
    if float(np.std(x)) < _LEAST_SPREAD * float(np.mean(x)):
        raise MeterError(
            f"the load hardly changed ({x.min():.3g} to {x.max():.3g} W); "
            "record idle, half and full load"
        )
    correlation = float(np.corrcoef(x, y)[0, 1]) if np.std(y) > 0 else 0.0
    if correlation < _LEAST_CORRELATION:
        raise MeterError(
            f"the two meters do not follow each other (correlation {correlation:.2f}); "
            "align their clocks, and check that the reference feeds this board"
        )
    weight = 1 / (variance + float(np.mean(variance)) + (0.005 * float(np.mean(y))) ** 2)
    middle_x, middle_y = np.average(x, weights=weight), np.average(y, weights=weight)
    spread = float(np.sum(weight * (x - middle_x) ** 2))
    gain = float(np.sum(weight * (x - middle_x) * (y - middle_y))) / spread
    offset_w = float(middle_y - gain * middle_x)
    missed_w = y - gain * x - offset_w
    n = len(windows)
    chi2 = float(np.sum(weight * missed_w**2)) / (n - 2)
    residual_w = math.sqrt(float(np.average(missed_w**2, weights=weight)) * n / (n - 2))
    return Calibration(
        board=board,
        meter=meter,
        reference=reference_meter,
        date=date,
        boundary=boundary,
        gain=gain,
        offset_w=offset_w,
        gain_error=2 * math.sqrt(chi2 / spread) / gain,
        offset_error_w=2 * residual_w,
        residual_w=residual_w,
        n=n,
    )


def calibrations() -> list[str]:
    """Names of the shipped calibrations, sorted."""
    return sorted(path.stem for path in _SHIPPED.glob("*.toml"))


def load_calibration(name_or_path: str, *, meter: str) -> Calibration:
    """Read a shipped calibration by its name, or a file by its path (which ends in .toml).

    Raises:
        ConfigError: there is none, its digest does not fit its contents, or it is another meter's.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        known = calibrations()
        if name_or_path not in known:
            raise ConfigError(
                f"no calibration {name_or_path!r} (known: {', '.join(known)}; or the path of a "
                f".toml file){nearest(name_or_path, known)}"
            )
        path = _SHIPPED / f"{name_or_path}.toml"
    where = f"calibration {name_or_path}"
    table = dict(read_toml(path, where=where))
    sha256 = table.pop("sha256", None)
    calibration = parse(Calibration, table, where=where)
    if sha256 != digest(calibration):
        raise ConfigError(
            f"{where}: its contents do not fit its sha256; they were changed after the fit, so "
            "make it again with `leakwatt calibrate`"
        )
    if calibration.meter != meter:
        raise ConfigError(f"{where} is for the meter {calibration.meter!r}, not {meter!r}")
    return calibration


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write it with the SHA-256 of its contents, which `load_calibration` checks.

    Raises:
        OSError: it cannot be written.
    """
    table = {**to_table(calibration), "sha256": digest(calibration)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _common_windows(internal: PowerTrace, reference: PowerTrace, window_s: float) -> np.ndarray:
    """Per window: the two mean powers in W, and the variance of their difference, [window, 3]."""
    start_s = max(internal.t_s[0], reference.t_s[0])
    n_windows = int((min(internal.t_s[-1], reference.t_s[-1]) - start_s) / window_s)
    rows = []
    for begin_s in start_s + window_s * np.arange(max(n_windows, 0)):
        means = [_mean(trace, begin_s, begin_s + window_s) for trace in (internal, reference)]
        if all(math.isfinite(number) for mean in means for number in mean):
            (x, x_variance), (y, y_variance) = means
            rows.append((x, y, x_variance + y_variance))
    return np.array(rows).reshape(-1, 3)


def _mean(trace: PowerTrace, begin_s: float, end_s: float) -> tuple[float, float]:
    """Mean power and the variance of that mean; NaN without two samples or with an unread one."""
    inside = (trace.t_s >= begin_s) & (trace.t_s < end_s)
    power_w = np.sum([rail[inside] for rail in trace.power_w.values()], axis=0)
    if power_w.size < 2:
        return math.nan, math.nan
    return float(np.mean(power_w)), float(np.var(power_w, ddof=1)) / power_w.size
