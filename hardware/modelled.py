"""Energy that nothing measured: CPU seconds priced with a table of watts.

It is another type than a measured energy, never added to one, and marked wherever it is shown.

The CPU seconds are those of THIS host; the watts are those of the board or processor that the
table names. Under a board's table, a faster or slower host therefore does not say what that board
would have needed; it says what this host's CPU seconds would cost at that board's watts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedcore.energy import ModelledEnergy
from fedcore.errors import ConfigError
from fedcore.registry import nearest
from fedcore.strict import parse
from fedcore.toml import read_toml

__all__ = ["CpuModel", "energy_models", "load_energy_model"]

_TABLES = Path(__file__).parent / "energy_models"
_IDLE_SPREAD = 0.25  # boards of one kind differ by 10 to 25 %, with their peripherals


@dataclass(frozen=True, kw_only=True)
class CpuModel:
    """Energy = CPU seconds x watts per busy core [+ idle share x idle watts x duration].

    Attributes:
        name: of the table.
        title: the hardware whose watts these are.
        busy_core_w: what one busy core adds to the idle board.
        low_w: lower end of its interval.
        high_w: upper end.
        source: where the numbers come from.
        idle_w: the whole board at rest; None where nobody knows.
        idle_share: part of the idle energy that is charged too, in [0, 1]; 0 prices the work only.
    """

    name: str
    title: str
    busy_core_w: float
    low_w: float
    high_w: float
    source: str
    idle_w: float | None = None
    idle_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.low_w <= self.busy_core_w <= self.high_w:
            raise ConfigError(
                f"need 0 < low_w <= busy_core_w <= high_w; "
                f"got {self.low_w}, {self.busy_core_w}, {self.high_w}"
            )
        if not 0 <= self.idle_share <= 1:
            raise ConfigError(f"idle_share must lie in [0, 1]; got {self.idle_share}")
        if self.idle_share and self.idle_w is None:
            raise ConfigError(f"{self.name} has no idle_w, so that idle_share must be 0")

    @property
    def label(self) -> str:
        """How tables and plots name this model."""
        return f"CPU seconds of this host at the watts of {self.name}"

    def estimate(self, *, cpu_s: float, duration_s: float) -> ModelledEnergy:
        """Price a window.

        Args:
            cpu_s: CPU time of the process and its ended children on this host, in s.
            duration_s: wall time, in s; only used with an idle share.
        """
        idle_j = self.idle_share * (self.idle_w or 0.0) * duration_s
        inputs = f"{cpu_s:.4g} CPU-s x {self.busy_core_w:.4g} W"
        if idle_j:
            inputs += f" + {self.idle_share:g} x {self.idle_w:.4g} W x {duration_s:.4g} s"
        return ModelledEnergy(
            energy_j=cpu_s * self.busy_core_w + idle_j,
            low_j=cpu_s * self.low_w + idle_j * (1 - _IDLE_SPREAD),
            high_j=cpu_s * self.high_w + idle_j * (1 + _IDLE_SPREAD),
            model=self.label,
            inputs=inputs,
        )


def energy_models() -> list[str]:
    """Names of all tables, sorted."""
    return sorted(path.stem for path in _TABLES.glob("*.toml"))


def load_energy_model(name: str, *, idle_share: float = 0.0) -> CpuModel:
    """Read a table.

    Raises:
        ConfigError: there is none of that name (the message names the nearest), or it is wrong.
    """
    known = energy_models()
    if name not in known:
        raise ConfigError(
            f"no energy model {name!r} (known: {', '.join(known)}){nearest(name, known)}"
        )
    table = read_toml(_TABLES / f"{name}.toml", where=f"energy model {name}")
    return parse(
        CpuModel, {**table, "name": name, "idle_share": idle_share}, where=f"energy model {name}"
    )
