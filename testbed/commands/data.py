"""data prepare, vault collect, vault purge, certs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedcore.command_line import key_value
from testbed.commands.options import add_run

__all__ = ["add_parsers"]


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    data = commands.add_parser("data", help="shards for clients").add_subparsers(
        metavar="ACTION", required=True
    )
    prepare = data.add_parser("prepare", help="partition a data set into one shard per client")
    prepare.add_argument(
        "--dataset", required=True, help="registered data set; see leakwatt plugins dataset"
    )
    prepare.add_argument(
        "--dataset-option", type=key_value, action="append", default=[], metavar="KEY=VALUE"
    )
    prepare.add_argument("--root", default="", help="folder with the data set's files")
    prepare.add_argument("--partition", default="iid", help="registered partition (%(default)s)")
    prepare.add_argument(
        "--partition-option", type=key_value, action="append", default=[], metavar="KEY=VALUE"
    )
    prepare.add_argument("--clients", type=int, default=4, help="(%(default)s)")
    prepare.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    prepare.add_argument("--eval-fraction", type=float, default=0.2, help="held out (%(default)s)")
    prepare.add_argument(
        "--auxiliary-fraction", type=float, default=0.2, help="for baselines (%(default)s)"
    )
    prepare.add_argument("--max-examples", type=int, default=0, help="0 takes all (%(default)s)")
    prepare.add_argument("--out", type=Path, required=True, help="one folder per client goes here")
    prepare.set_defaults(execute=_prepare)

    certs = commands.add_parser("certs", help="make the certificates of one cluster")
    certs.add_argument("--out", type=Path, required=True)
    certs.add_argument("--clients", type=int, default=4, help="(%(default)s)")
    certs.set_defaults(execute=_certs)

    vault = commands.add_parser("vault", help="sealed truth of boards").add_subparsers(
        metavar="ACTION", required=True
    )
    collect = vault.add_parser("collect", help="copy sealed records from boards' vaults into a run")
    add_run(collect)
    collect.add_argument(
        "--from", dest="sources", type=Path, action="append", required=True, metavar="FOLDER"
    )
    collect.set_defaults(execute=_collect)
    purge = vault.add_parser(
        "purge", help="delete sealed records; what was judged stays in the scores"
    )
    purge.add_argument("folder", type=Path, help="a vault, or a run's vault")
    purge.set_defaults(execute=_purge)


def _prepare(args: argparse.Namespace) -> None:
    from fedcore.config import parse_experiment
    from testbed.experiment import write_shards

    experiment = parse_experiment(
        {
            "name": "data",
            "seed": args.seed,
            "n_clients": args.clients,
            "data": {
                "dataset": {"name": args.dataset, "options": dict(args.dataset_option)},
                "root": args.root,
                "partition": {"name": args.partition, "options": dict(args.partition_option)},
                "eval_fraction": args.eval_fraction,
                "auxiliary_fraction": args.auxiliary_fraction,
                "max_examples": args.max_examples,
            },
            "schedule": {"quorum": 1},
        },
        where="data prepare",
    )
    write_shards(
        experiment,
        folder_of=lambda client_id: args.out / client_id,
        auxiliary=args.out / "auxiliary.npz",
    )
    sys.stdout.write(f"{args.out}\n")


def _certs(args: argparse.Namespace) -> None:
    from fedcore.config import parse_experiment
    from testbed.certs import make_certificates

    table = {"name": "certs", "n_clients": args.clients, "schedule": {"quorum": 1}}
    names = parse_experiment(table, where="certs").client_ids  # the names that a run will have
    make_certificates(args.out, client_ids=names)
    sys.stdout.write(f"{args.out}\n")


def _collect(args: argparse.Namespace) -> None:
    from edge_client.vault import collect
    from testbed.folders import find_run

    run = find_run(args.run, runs=args.runs)
    sys.stdout.write(f"{collect(args.sources, into=run.vault)} records\n")


def _purge(args: argparse.Namespace) -> None:
    from edge_client.vault import purge

    sys.stdout.write(f"{purge(args.folder)} records deleted\n")
