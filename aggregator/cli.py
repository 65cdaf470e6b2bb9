"""`leakwatt-aggregator`: serve one run folder until every arm is finished.

Exit codes: 0 every arm is finished; 1 the run cannot go on (one line says why); 2 bad input;
128 + the signal's number when it was stopped, after which the same command goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from aggregator.journal import storing
from aggregator.metrics import families_of
from aggregator.rpc import start_server
from aggregator.server import Aggregator, ServerOptions
from fedcore.command_line import positive_s
from fedcore.errors import FedcoreError
from fedcore.health import Pulse
from fedcore.layout import RunFolder
from fedcore.logs import start_logging
from fedcore.prometheus import serve_metrics
from fedcore.wire.channel import CertFiles

__all__ = ["main"]

log = logging.getLogger(__name__)

_STOP_CALLS_WITHIN_S = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service; see the module for its exit codes."""
    args = _parser().parse_args(argv)
    try:
        start_logging(file=args.log, verbose=args.verbose)
        return asyncio.run(_serve(args))
    except FedcoreError as error:
        sys.stderr.write(f"leakwatt-aggregator: {error}\n")
        return error.exit_code


async def _serve(args: argparse.Namespace) -> int:
    options = ServerOptions(
        heartbeat_s=args.heartbeat_s,
        grace_s=args.grace_s,
        survives_power_loss=args.durability == "power",
    )
    run = RunFolder(args.run)
    aggregator = Aggregator(run, options=options, pulse=Pulse(args.pulse))
    with contextlib.ExitStack() as opened:
        opened.enter_context(contextlib.closing(aggregator))
        if args.metrics:
            run_ids = tuple(map(aggregator.experiment.run_id, aggregator.experiment.arms))
            families = functools.partial(families_of, run.store_file, run_ids)
            at = opened.enter_context(serve_metrics(args.metrics, families))
            log.info("metrics", extra={"address": at})
        certs = CertFiles.of(args.certs, "aggregator")
        server, address = await start_server(aggregator, certs=certs, listen=args.listen)
        try:
            _announce(run.root / "aggregator.address", address)
            log.info("listening", extra={"address": address, "run": aggregator.experiment.id})
            return await _serve_until_done_or_stopped(aggregator)
        finally:
            await server.stop(_STOP_CALLS_WITHIN_S)


async def _serve_until_done_or_stopped(aggregator: Aggregator) -> int:
    stopped_by: list[int] = []
    serving = asyncio.ensure_future(aggregator.serve_runs())
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        stopped_by.append(number)
        serving.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        await serving
    except asyncio.CancelledError:
        await aggregator.say_farewell(reason="the aggregator is stopping", finished=False)
        return 128 + stopped_by[0]
    except FedcoreError as error:
        await aggregator.say_farewell(reason=str(error), finished=False)
        raise
    await aggregator.say_farewell(reason="every run is finished", finished=True)
    return 0


def _announce(path: Path, address: str) -> None:
    """Write the address so that a reader sees the whole of it or nothing."""
    with storing(path):
        partial = path.with_name(f".{path.name}-{os.getpid()}")
        partial.write_text(address + "\n")
        partial.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leakwatt-aggregator", description="Serve the rounds of one run folder."
    )
    parser.add_argument("--run", type=Path, required=True, help="the prepared run folder")
    parser.add_argument("--certs", type=Path, required=True, help="folder of the certificates")
    parser.add_argument(
        "--listen", default="0.0.0.0:7443", help="HOST:PORT; port 0 takes a free one (%(default)s)"
    )
    parser.add_argument(
        "--durability",
        choices=("kill", "power"),
        default="kill",
        help="what accepted updates survive: killed processes, or a power loss too (%(default)s)",
    )
    parser.add_argument(
        "--heartbeat-s", type=positive_s, default=5.0, help="asked of the clients (%(default)s)"
    )
    parser.add_argument(
        "--grace-s",
        type=positive_s,
        default=10.0,
        help="wait so long at the end for clients and watchers that do not move (%(default)s)",
    )
    parser.add_argument("--metrics", metavar="HOST:PORT", help="answer Prometheus there (nowhere)")
    parser.add_argument("--pulse", type=Path, help="file to touch while the service works")
    parser.add_argument("--log", type=Path, help="log to this file instead of stderr")
    parser.add_argument("--verbose", action="store_true", help="log everything")
    return parser


if __name__ == "__main__":
    sys.exit(main())
