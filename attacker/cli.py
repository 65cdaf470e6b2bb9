"""`leakwatt-attacker`: watch a federation's tap and invert its updates, live or from the journal.

Exit codes: 0 every arm was attacked; 1 it could not be done (one line says why); 2 bad input;
3 the aggregator refuses; 128 + the signal's number when it was stopped, after which the same
command goes on.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcore.command_line import exit_on_signals, key_value
from fedcore.errors import AttackError, ConfigError, FedcoreError
from fedcore.logs import start_logging

if TYPE_CHECKING:
    from attacker.campaign import Campaign
    from attacker.observations import Event
    from fedcore.config import Arm, AttackConfig, Experiment
    from fedcore.layout import RunFolder
    from fedcore.types import Reconstruction

__all__ = ["main"]

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service; see the module for its exit codes."""
    args = _parser().parse_args(argv)
    try:
        start_logging(file=args.log, verbose=args.verbose)
        exit_on_signals()
        args.execute(args)
    except FedcoreError as error:
        sys.stderr.write(f"leakwatt-attacker: {error}\n")
        return error.exit_code
    return 0


def _live(args: argparse.Namespace) -> None:
    """Attack what the tap shows."""
    from attacker.campaign import Campaign
    from fedcore.health import Pulse
    from fedcore.layout import RunFolder

    run = RunFolder(args.run)
    experiment = run.read_experiment()
    pulse = Pulse(args.pulse)
    campaign = Campaign(
        experiment, run, attacks={arm.name: arm.attack for arm in experiment.arms}, pulse=pulse
    )
    with _computing(args):
        campaign.follow(_tapped(args, run, experiment, campaign, on_wait=pulse.beat))
    log.info("finished")


def _tapped(
    args: argparse.Namespace,
    run: RunFolder,
    experiment: Experiment,
    campaign: Campaign,
    *,
    on_wait: Callable[[], None],
) -> Iterator[Event]:
    """Live events; from the journal where the aggregator has finished and gone before we came."""
    from attacker.observations import AllOver
    from attacker.replay import is_finished, replay
    from attacker.rpc import TapLine
    from fedcore.wire.channel import CertFiles

    line = TapLine(
        address=functools.partial(_address, args),
        certs=CertFiles.of(args.certs, args.name),
        wants=campaign.wants,
        is_over=functools.partial(is_finished, run, experiment),
    )
    with line:
        for event in line.events(on_wait=on_wait):
            yield event
            if isinstance(event, AllOver):
                return
    log.info("the aggregator has finished and gone: reading its journal")
    yield from replay(run, experiment, wants=campaign.wants)


def _replay(args: argparse.Namespace) -> None:
    """Attack what the run folder's journal holds."""
    from attacker.campaign import Campaign
    from attacker.replay import replay
    from fedcore.health import Pulse
    from fedcore.layout import RunFolder

    run = RunFolder(args.run)
    experiment = run.read_experiment()
    campaign = Campaign(
        experiment,
        run,
        attacks={arm.name: _attack_of(arm, args) for arm in _arms(experiment, args.arm)},
        out=args.out,
        waits=False,
        pulse=Pulse(args.pulse),
    )
    with _computing(args):
        campaign.follow(replay(run, experiment, wants=campaign.wants))
    outcomes = [_outcome(arm, answers) for arm, answers in campaign.answers().items()]
    if args.json:
        table = {"run": str(run.root), "arms": outcomes}
        sys.stdout.write(json.dumps(table, indent=2) + "\n")
        return
    for outcome in outcomes:
        labels = ", ".join(outcome["labels_from"]) or "the attack"
        sys.stdout.write(
            f"{outcome['arm']}: {outcome['attack']} on {outcome['victims']} victims, "
            f"{outcome['failed']} failed, mean own loss {outcome['mean_own_loss']:.3g}, "
            f"labels from {labels}\n"
        )


def _outcome(arm: str, answers: Sequence[Reconstruction]) -> dict[str, Any]:
    """What is worth telling about an arm.

    Raises:
        AttackError: no victim of it could be attacked.
    """
    found = [answer for answer in answers if not answer.failed]
    if not found:
        why = answers[0].failed if answers else "its journal holds no update of a victim round"
        raise AttackError(f"arm {arm!r}: {why}")
    loss = sum(float(answer.losses[answer.chosen]) for answer in found) / len(found)
    return {
        "arm": arm,
        "attack": found[0].attack,
        "victims": len(answers),
        "failed": len(answers) - len(found),
        "mean_own_loss": loss,
        "labels_from": sorted({answer.labels_from for answer in found} - {""}),
        "knowledge": sorted({name for answer in found for name in answer.knowledge}),
    }


def _arms(experiment: Experiment, name: str | None) -> Sequence[Arm]:
    from fedcore.registry import nearest

    found = [arm for arm in experiment.arms if name in (None, arm.name)]
    if not found:
        known = [arm.name for arm in experiment.arms]
        raise ConfigError(
            f"--arm: no arm {name!r} (known: {', '.join(known)}){nearest(str(name), known)}"
        )
    return found


def _attack_of(arm: Arm, args: argparse.Namespace) -> AttackConfig:
    """The arm's attack with what the command line says instead."""
    from attacker.attacks import ATTACKS
    from fedcore.plan import Choice
    from fedcore.strict import build

    name = args.attack or arm.attack.name
    keeps_options = name == arm.attack.name
    attack = replace(
        arm.attack,
        name=name,
        options={**(arm.attack.options if keeps_options else {}), **dict(args.option)},
        restarts=arm.attack.restarts if args.restarts is None else args.restarts,
        iterations=arm.attack.iterations if args.iterations is None else args.iterations,
    )
    build(ATTACKS, Choice(name=attack.name, options=attack.options))  # a wrong option is told now
    return attack


def _address(args: argparse.Namespace) -> str | None:
    if args.aggregator:
        return str(args.aggregator)
    try:
        return args.address_file.read_text().strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{args.address_file}: cannot be read ({error.strerror})") from error


def _computing(args: argparse.Namespace) -> AbstractContextManager[None]:
    """On the device, and by half of the cores unless told otherwise: more would wait, not work.

    Never by more than there are: torch takes any number, and dies of too many.
    """
    import torch

    from attacker.devices import computing_on

    n_cores = os.cpu_count() or 2
    torch.set_num_threads(min(args.threads or max(1, n_cores // 2), n_cores))
    log.info("computing", extra={"device": args.device, "threads": torch.get_num_threads()})
    return computing_on(args.device)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leakwatt-attacker", description="Rebuild inputs from the updates that clients sent."
    )
    modes = parser.add_subparsers(metavar="MODE", required=True)
    live = modes.add_parser("live", help="watch the aggregator's tap")
    where = live.add_mutually_exclusive_group(required=True)
    where.add_argument("--aggregator", metavar="HOST:PORT", help="of the aggregator")
    where.add_argument("--address-file", type=Path, help="that will hold the address")
    live.add_argument("--certs", type=Path, required=True, help="folder of the certificates")
    live.add_argument("--name", default="attacker", help="as in the certificate (%(default)s)")
    live.set_defaults(execute=_live)

    replay = modes.add_parser("replay", help="read a run folder's journal")
    replay.add_argument("--arm", help="only this arm")
    replay.add_argument("--attack", help="another attack than the experiment's")
    replay.add_argument(
        "--option",
        type=key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the attack",
    )
    replay.add_argument("--restarts", type=_count, help="starts per victim")
    replay.add_argument("--iterations", type=_count, help="gradient evaluations per start")
    replay.add_argument("--out", type=Path, help="for the answers, instead of the run folder")
    replay.add_argument("--json", action="store_true", help="print JSON for a script")
    replay.set_defaults(execute=_replay)

    for mode in (live, replay):
        mode.add_argument("--run", type=Path, required=True, help="the run folder")
        mode.add_argument(
            "--threads", type=_count, default=0, help="CPU threads, one per core at most; 0 is half"
        )
        mode.add_argument(
            "--device", default="cpu", help='"cpu", or "cuda" for a graphics card (%(default)s)'
        )
        mode.add_argument("--pulse", type=Path, help="file to touch while the service works")
        mode.add_argument("--log", type=Path, help="log to this file instead of stderr")
        mode.add_argument("--verbose", action="store_true", help="log everything")
    return parser


if __name__ == "__main__":
    sys.exit(main())
