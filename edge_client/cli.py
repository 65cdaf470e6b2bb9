"""`leakwatt-client`: one client, on a board, in a container or in a local cluster."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_client.config import ClientConfig, read_config
from fedcore.command_line import exit_on_signals
from fedcore.errors import FedcoreError
from fedcore.logs import start_logging
from fedcore.strict import digest

__all__ = ["main"]

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Take part until every run is finished.

    Returns:
        0 when every run is finished, 2 for a bad configuration, 3 when the aggregator refuses,
        1 for any other failure.

    Raises:
        SystemExit: stopped by SIGTERM or SIGINT (128 + its number); nothing is lost, since
            the next start draws the same numbers.
    """
    config = None
    try:
        config = read_config(argv)
        start_logging(file=Path(config.log) if config.log else None, verbose=config.verbose)
        exit_on_signals()
        _take_part(config)
    except FedcoreError as error:
        sys.stderr.write(f"leakwatt-client: {error}\n")
        if config and config.log:
            log.error("stopped", extra={"why": str(error)})  # noqa: TRY400  # one line, no trace
        return error.exit_code
    log.info("finished")
    return 0


def _take_part(config: ClientConfig) -> None:
    # What needs gRPC, a meter or a framework is imported here, so that --help answers at once.
    from edge_client.artefacts import ArtefactCache
    from edge_client.backends.base import factory_of
    from edge_client.client import Client
    from edge_client.rpc import Link, address_in
    from edge_client.vault import Vault
    from fedcore.codecs.base import CODECS
    from fedcore.cohort import PairSecrets
    from fedcore.data.shards import read_shard
    from fedcore.health import Pulse
    from fedcore.prometheus import PhaseTotals, serve_metrics
    from fedcore.seeds import ClientSecret
    from fedcore.wire.channel import CertFiles
    from fedcore.wire.messages import Hello
    from hardware.card import read_card
    from hardware.window import Recorder

    certs = CertFiles.of(Path(config.certs), config.name)
    shard = read_shard(Path(config.shard))
    secret = ClientSecret.read(Path(config.secret))
    peers = PairSecrets.read(Path(config.peers), own_id=config.name) if config.peers else None
    vault = Vault(Path(config.vault), judge_key=Path(config.judge_key))
    make_backend = factory_of(config.backend)
    backend = make_backend(threads=config.threads, accelerator=config.accelerator)
    with Recorder(
        meter=config.meter,
        period_s=config.period_s,
        energy_model=config.energy_model,
        shared_by=config.shared_by,
    ) as recorder:
        card = read_card(meter=recorder.meter, computing=backend.computing).to_table()
        hello = Hello(
            client_id=config.name,
            versions={**_versions(), **backend.versions},
            backends=(config.backend,),
            codecs=tuple(CODECS.names()),
            machine_card=card,
        )
        with Link(
            address=lambda: config.aggregator or address_in(Path(config.address_file)),
            certs=certs,
            hello=hello,
            pulse=Pulse(Path(config.pulse) if config.pulse else None),
        ) as link:
            totals = PhaseTotals()
            client = Client(
                name=config.name,
                link=link,
                shard=shard,
                secret=secret,
                vault=vault,
                backend=backend,
                recorder=recorder,
                card_digest=digest(card),
                peers=peers,
                baseline_s=config.baseline_s,
                artefacts=ArtefactCache(Path(config.cache) if config.cache else None),
                on_report=totals.add,
            )
            with contextlib.ExitStack() as opened:
                if config.metrics:
                    opened.enter_context(serve_metrics(config.metrics, totals.families))
                client.run()


def _versions() -> dict[str, str]:
    """Of the packages that both sides of the wire rely on."""
    found = {"python": platform.python_version()}
    for name in ("leakwatt", "numpy", "grpcio", "protobuf"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    sys.exit(main())
