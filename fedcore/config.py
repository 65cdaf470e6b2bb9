"""The experiment file: strict TOML into frozen dataclasses, resolved once, named by its digest.

A file holds small deltas: over the defaults below, or over the file that `base` names. Every
`[[arms]]` table overrides the same keys for one arm, so that what is not named is shared and two
arms differ in exactly what they say.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard

from fedcore.devices import Device
from fedcore.errors import ConfigError
from fedcore.plan import Choice, EncodingSpec, ModelSpec, Training
from fedcore.registry import nearest
from fedcore.strict import digest, parse, to_table
from fedcore.toml import read_toml
from fedcore.types import ThreatModel, check_id

__all__ = [
    "Arm",
    "AttackConfig",
    "DataConfig",
    "Experiment",
    "HardwareConfig",
    "Schedule",
    "load_experiment",
    "parse_experiment",
    "read_with_base",
]

_MAX_NAME = 24  # name, arm and digest together make a run id of at most 63 characters


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the clients learn from.

    Attributes:
        dataset: registered data set and its options.
        root: folder with its files; "" for a set that is bundled.
        partition: how examples are shared out among clients.
        eval_fraction: held out for accuracy, never trained on.
        auxiliary_fraction: seen by no client: for baselines, priors and tuning an attack.
        max_examples: use only so many; 0 takes all.
    """

    dataset: Choice = field(default_factory=lambda: Choice(name="digits"))
    root: str = ""
    partition: Choice = field(default_factory=lambda: Choice(name="iid"))
    eval_fraction: float = 0.2
    auxiliary_fraction: float = 0.2
    max_examples: int = 0

    def __post_init__(self) -> None:
        for name in ("eval_fraction", "auxiliary_fraction"):
            if not 0 < getattr(self, name) < 0.5:
                raise ConfigError(f"{name} must lie in (0, 0.5); got {getattr(self, name)}")
        if self.max_examples < 0:
            raise ConfigError(f"max_examples must be >= 0; got {self.max_examples}")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How many rounds, and when one closes.

    Attributes:
        rounds: training rounds; one more plan evaluates the final weights.
        evaluate_every: rounds between evaluations; the first and the final weights always are.
        deadline_s: after which a round closes with whoever reached the quorum.
        quorum: smallest number of accepted updates that may close a round.
        wait_for_all: a round closes only when every client's update is in (bit-identical models,
            whatever died in between); False lets the deadline and lost clients close it.
        max_examples: largest weight a client may claim.
    """

    rounds: int = 10
    evaluate_every: int = 5
    deadline_s: float = 120.0
    quorum: int = 2
    wait_for_all: bool = True
    max_examples: int = 1_000_000

    def __post_init__(self) -> None:
        for name in ("rounds", "evaluate_every", "quorum", "max_examples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1; got {getattr(self, name)}")
        if not self.deadline_s > 0:
            raise ConfigError(f"deadline_s must be > 0; got {self.deadline_s}")


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Which attack, on which updates, with which budget. Fixed before the run, in the digest.

    Attributes:
        name: registered attack.
        options: its own.
        victim_rounds: the rounds whose updates (of every client) are inverted.
        restarts: starts per victim.
        iterations: gradient evaluations of the objective per start.
        when: "after" the federation, so that it does not disturb the meters, or "live".
    """

    name: str = "inverting-gradients"
    options: Mapping[str, Any] = field(default_factory=dict)
    victim_rounds: tuple[int, ...] = (0,)
    restarts: int = 2
    iterations: int = 400
    when: Literal["after", "live"] = "after"

    def __post_init__(self) -> None:
        if self.restarts < 1 or self.iterations < 1:
            raise ConfigError("restarts and iterations must be >= 1")
        rounds = list(self.victim_rounds)
        if sorted(set(rounds)) != rounds or not rounds or rounds[0] < 0:
            raise ConfigError(
                f"victim_rounds must be rounds from 0 on, ascending, at least one; got {rounds}"
            )


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """What meters the clients.

    Attributes:
        meter: registered meter, or "auto" for the first that really reads here.
        period_s: mean time between samples.
        energy_model: table that prices CPU time where nothing measures.
        baseline_s: how long each client measures its idle power, before its first round and after
            the last one; 0 for not at all, and then no net energy.
    """

    meter: Choice = field(default_factory=lambda: Choice(name="auto"))
    period_s: float = 0.1
    energy_model: str = "generic-x86-thread"
    baseline_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.period_s > 0:
            raise ConfigError(f"period_s must be > 0; got {self.period_s}")
        if not self.baseline_s >= 0:
            raise ConfigError(f"baseline_s must be >= 0; got {self.baseline_s}")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One federated run of the experiment.

    Attributes:
        clients: ids of those that take part; empty for all.
    """

    name: str
    clients: tuple[str, ...] = ()
    model: ModelSpec = field(default_factory=ModelSpec)
    encoding: EncodingSpec = field(default_factory=EncodingSpec)
    training: Training = field(default_factory=Training)
    defences: tuple[Choice, ...] = ()
    codec: Choice = field(default_factory=lambda: Choice(name="f32"))
    strategy: Choice = field(default_factory=lambda: Choice(name="fedavg"))
    schedule: Schedule = field(default_factory=Schedule)
    threat: ThreatModel = field(default_factory=ThreatModel)
    attack: AttackConfig = field(default_factory=AttackConfig)

    def __post_init__(self) -> None:
        if len(check_id(self.name, what="arm name")) > _MAX_NAME:
            raise ConfigError(f"arm name {self.name!r} is longer than {_MAX_NAME} characters")
        if self.attack.victim_rounds[-1] >= self.schedule.rounds:
            raise ConfigError(
                f"attack.victim_rounds names round {self.attack.victim_rounds[-1]}, "
                f"but schedule.rounds is {self.schedule.rounds} (rounds count from 0)"
            )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The resolved experiment: nothing is left to defaults, and its digest is in every record.

    Attributes:
        name: of the run folder.
        seed: public root of what the server decides.
        reproducible: client draws come from the client's secret, so that the same experiment
            sends the same bits twice; False takes defence noise from the system's generator.
        n_clients: clients "client-0", "client-1", ...
        devices: what clients run on; those that none names run on torch.
        arms: runs that follow each other over the same clients and data.
    """

    name: str
    seed: int = 0
    reproducible: bool = True
    n_clients: int = 4
    devices: tuple[Device, ...] = ()
    data: DataConfig = field(default_factory=DataConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    arms: tuple[Arm, ...] = field(default_factory=lambda: (Arm(name="main"),))

    def __post_init__(self) -> None:
        if len(check_id(self.name, what="name")) > _MAX_NAME:
            raise ConfigError(f"name {self.name!r} is longer than {_MAX_NAME} characters")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must lie in [0, 2^63); got {self.seed}")
        if not 1 <= self.n_clients <= 1000:
            raise ConfigError(f"n_clients must lie in [1, 1000]; got {self.n_clients}")
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"arms need names of their own; got {names}")
        _check_clients(self)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the resolved experiment."""
        return digest(self)

    @property
    def id(self) -> str:
        """Name of the run folder, e.g. "quickstart-1a2b3c4d"."""
        return f"{self.name}-{self.digest[:8]}"

    @property
    def client_ids(self) -> tuple[str, ...]:
        """Ids of all clients, in the order in which updates are folded."""
        width = len(str(self.n_clients - 1))
        return tuple(f"client-{i:0{width}d}" for i in range(self.n_clients))

    def clients_of(self, arm: Arm) -> tuple[str, ...]:
        """Ids of the clients that take part in an arm, in the order of `client_ids`."""
        return tuple(c for c in self.client_ids if not arm.clients or c in arm.clients)

    def device_of(self, client_id: str) -> Device:
        """What a client runs on."""
        for device in self.devices:
            if client_id in device.clients:
                return device
        return Device(name="torch", clients=(client_id,))

    def run_id(self, arm: Arm) -> str:
        """The run id on the tickets of one arm."""
        return f"{self.name}-{arm.name}-{self.digest[:8]}"

    def arm_of(self, run_id: str) -> Arm:
        """The arm behind a run id.

        Raises:
            ConfigError: this experiment has no such run.
        """
        for arm in self.arms:
            if self.run_id(arm) == run_id:
                return arm
        raise ConfigError(f"experiment {self.id} has no run {run_id!r}")


def _check_clients(experiment: Experiment) -> None:
    """Devices and arms name clients that there are, and arms enough of them."""
    known, placed = set(experiment.client_ids), set[str]()
    users = [(f"device {device.name!r}", device.clients) for device in experiment.devices]
    for what, clients in (*users, *((f"arm {arm.name!r}", arm.clients) for arm in experiment.arms)):
        for client_id in clients:
            if client_id not in known:
                raise ConfigError(
                    f"{what}: there is no client {client_id!r}; n_clients is "
                    f"{experiment.n_clients}{nearest(client_id, sorted(known))}"
                )
    for what, clients in users:
        if twice := sorted(placed & set(clients)):
            raise ConfigError(f"{what}: {', '.join(twice)} runs on another device already")
        placed.update(clients)
    names = [device.name for device in experiment.devices]
    if len(set(names)) != len(names):
        raise ConfigError(f"devices need names of their own; got {names}")
    for arm in experiment.arms:
        n_clients = len(experiment.clients_of(arm))
        if arm.schedule.quorum > n_clients:
            raise ConfigError(
                f"arm {arm.name!r}: schedule.quorum is {arm.schedule.quorum}, "
                f"but {n_clients} clients take part"
            )


def load_experiment(path: Path) -> Experiment:
    """Read and resolve an experiment file.

    Raises:
        ConfigError: one line that names the file, the key and the nearest valid name.
    """
    return parse_experiment(read_with_base(path), where=path.name)


def parse_experiment(table: Mapping[str, Any], *, where: str) -> Experiment:
    """Build an experiment from a table whose arms may still be deltas over the shared keys."""
    known = _ARM_KEYS | {f.name for f in dataclasses.fields(Experiment)}
    for key in table.keys() - known:
        raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, sorted(known))}")
    shared = {k: v for k, v in table.items() if k in _ARM_KEYS}
    rest = {k: v for k, v in table.items() if k not in _ARM_KEYS}
    arms = rest.get("arms", [{"name": "main"}])
    if not isinstance(arms, list) or not all(isinstance(arm, Mapping) for arm in arms):
        raise ConfigError(f"{where}: arms: expected one [[arms]] table per arm")
    rest["arms"] = [_merged(shared, arm) for arm in arms]
    try:
        return parse(Experiment, rest, where=where)
    except ConfigError:
        parse(Arm, {"name": "shared", **shared}, where=where)  # a fault outside [[arms]] is told so
        raise


_ARM_KEYS = frozenset(to_table(Arm(name="any"))) - {"name"}


def read_with_base(path: Path, *, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The table of a file, as a delta over the file beside it that its key `base` names.

    Args:
        path: of the file.
        seen: files that already refine this one.

    Raises:
        ConfigError: a file cannot be read or is not TOML, or bases go in a circle.
    """
    table = read_toml(path, where=path.name)
    here = path.resolve()  # "../x/a.toml" is "a.toml" again
    if here in seen:
        raise ConfigError(f"{path.name}: base files name each other in a circle")
    base = table.pop("base", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise ConfigError(f"{path.name}: base: got {base!r}, expected the name of a file")
    below = path.parent / base
    if not below.is_file():
        raise ConfigError(f"{path.name}: base: there is no file {below}")
    return _merged(read_with_base(below, seen=(*seen, here)), table)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; anything else, and a plugin under another name, replaces."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _merged(old, value) if _is_delta(old, value) else value
    return result


def _is_delta(old: Any, value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a table refines another; under a new plugin name the old options would not fit."""
    if not (isinstance(old, Mapping) and isinstance(value, Mapping)):
        return False
    return "name" not in value or value["name"] == old.get("name", value["name"])
