"""Where a run keeps what: one home for every path.

runs/<experiment id>/            may be read by anybody, the attacker included
    experiment.json              resolved experiment
    artefacts/<sha256>           initial and round weights, and ONNX graphs, by content
    initial.json                 arm name -> digest of its initial weights
    graphs.json                  arm name -> kind -> digest of an ONNX graph, or why there is none
    journal/<sha256>             received updates, byte for byte
    store.sqlite                 rounds, acceptances, refusals, phases, evaluations
    vault/<client>/...           victims' records, sealed to the judge
    knowledge/<run id>.npz       what testbed.disclose granted
    attack/<run id>/             reconstructions and progress
    scores/<run id>.json         what the judge found
    external/                    what meters that logged by themselves say of the run
    report/                      page and figures (they show victims: handle like the data)
    logs/                        one file per service

<private>/<experiment id>/       for the testbed and single clients; never for the attacker
    judge.key                    opens the vault
    judge.pub                    seals it
    certs/<name>.{crt,key}       and ca.crt
    services/<name>/             what one service needs of the above, and nothing else; for a client
                                 also shard.npz, card.json, secret, client.toml, and peers
                                 where clients hide their updates from the aggregator
    auxiliary.npz                examples that no client holds
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fedcore.config import Arm, Experiment, parse_experiment
from fedcore.errors import ConfigError
from fedcore.strict import canonical_json
from fedcore.types import Missing, Ticket

__all__ = ["PrivateFolder", "RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """The shared folder of one experiment's run."""

    root: Path

    @property
    def experiment_file(self) -> Path:
        """The resolved experiment."""
        return self.root / "experiment.json"

    @property
    def artefacts(self) -> Path:
        """Blobs of plans, by SHA-256."""
        return self.root / "artefacts"

    @property
    def initial_file(self) -> Path:
        """Arm name -> digest of its initial weights."""
        return self.root / "initial.json"

    @property
    def graphs_file(self) -> Path:
        """Arm name -> kind -> digest, see `fedcore.plan.RoundPlan.graphs`, or {"why": ...}."""
        return self.root / "graphs.json"

    @property
    def journal(self) -> Path:
        """Accepted updates, by SHA-256."""
        return self.root / "journal"

    @property
    def store_file(self) -> Path:
        """The SQLite store."""
        return self.root / "store.sqlite"

    @property
    def vault(self) -> Path:
        """Sealed records, one folder per client."""
        return self.root / "vault"

    @property
    def external(self) -> Path:
        """One file per client and boundary of an external log."""
        return self.root / "external"

    @property
    def report(self) -> Path:
        """The page and its figures."""
        return self.root / "report"

    @property
    def logs(self) -> Path:
        """One file per service."""
        return self.root / "logs"

    def sealed_file(self, ticket: Ticket, sha256: str) -> Path:
        """The sealed record of one update."""
        return self.vault / ticket.client_id / ticket.run_id / f"{ticket.round:05d}-{sha256}.sealed"

    def knowledge_file(self, run_id: str) -> Path:
        """What was disclosed to the attacker about one run."""
        return self.root / "knowledge" / f"{run_id}.npz"

    def attack(self, run_id: str) -> Path:
        """The attacker's folder of one run."""
        return self.root / "attack" / run_id

    def scores_file(self, run_id: str) -> Path:
        """The judge's findings on one run."""
        return self.root / "scores" / f"{run_id}.json"

    def read_graphs(self, arm: Arm) -> dict[str, str]:
        """Digests of the graphs of an arm's model by kind; empty where no client needs any.

        Raises:
            ConfigError: the file is damaged.
        """
        return {kind: found for kind, found in self._graphs(arm).items() if isinstance(found, str)}

    def missing_graphs(self, arm: Arm) -> dict[str, Missing]:
        """Why there is no graph of some kinds, though a client would have run it.

        Raises:
            ConfigError: the file is damaged.
        """
        found = self._graphs(arm).items()
        return {kind: why for kind, why in found if isinstance(why, Missing)}

    def _graphs(self, arm: Arm) -> dict[str, str | Missing]:
        if not self.graphs_file.exists():
            return {}
        try:
            graphs = json.loads(self.graphs_file.read_bytes()).get(arm.name, {})
            return {
                kind: found if isinstance(found, str) else Missing(why=str(found["why"]))
                for kind, found in graphs.items()
            }
        except (OSError, ValueError, AttributeError, TypeError, LookupError) as error:
            raise ConfigError(
                f"{self.graphs_file}: not the graphs of a run ({error}); delete the run folder and "
                "prepare it again"
            ) from error

    def write_experiment(self, experiment: Experiment) -> None:
        """Write the resolved experiment; its bytes are what the digest names."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.experiment_file.write_bytes(canonical_json(experiment) + b"\n")

    def read_experiment(self) -> Experiment:
        """Read the resolved experiment back.

        Raises:
            ConfigError: this is no run folder.
        """
        try:
            table = json.loads(self.experiment_file.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.root}: not a run folder ({error})") from error
        return parse_experiment(table, where=self.experiment_file.name)


@dataclass(frozen=True)
class PrivateFolder:
    """What must not be readable by the attacker."""

    root: Path

    @property
    def judge_private(self) -> Path:
        """Opens the vault."""
        return self.root / "judge.key"

    @property
    def judge_public(self) -> Path:
        """Seals the vault."""
        return self.root / "judge.pub"

    @property
    def auxiliary_file(self) -> Path:
        """Examples that no client holds."""
        return self.root / "auxiliary.npz"

    def service(self, name: str) -> Path:
        """All that one service needs: certificates, and a client's shard, secret and seal."""
        return self.root / "services" / name

    def secret_file(self, client_id: str) -> Path:
        """A client's secret."""
        return self.service(client_id) / "secret"
