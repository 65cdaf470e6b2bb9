"""From an experiment file to folders that services can start from.

`load_checked` finds what is wrong before anything starts; `prepare` writes the run's public folder
and the private one (see fedcore.layout), and is harmless to repeat.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from aggregator.strategies.base import STRATEGIES
from attacker.attacks import ATTACKS
from edge_client.backends.base import BACKENDS
from fedcore.codecs.base import CODECS
from fedcore.cohort import PairSecrets
from fedcore.config import Arm, Experiment, load_experiment
from fedcore.data.datasets import DATASETS
from fedcore.data.encodings import encode, encoding_of
from fedcore.data.partition import PARTITIONS
from fedcore.data.shards import ShardCard, read_shard
from fedcore.data.shards import prepare as prepare_shards
from fedcore.defences.base import DEFENCES, chain
from fedcore.defences.dp_sgd import DpSgd
from fedcore.defences.secure_aggregation import SecureAggregation
from fedcore.errors import ConfigError
from fedcore.ground_truth import JudgeKey
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.nn.learning_rules import LEARNING_RULES
from fedcore.nn.models import MODELS, initial_weights
from fedcore.nn.models import build as build_model
from fedcore.nn.neurons import NEURONS
from fedcore.plan import Choice, ModelSpec
from fedcore.seeds import ClientSecret, stream
from fedcore.strict import build, canonical_json
from fedcore.tensors import pack_weights
from hardware.modelled import load_energy_model
from hardware.registry import METERS
from testbed.certs import make_certificates
from testbed.devices import check_devices, write_graphs

__all__ = ["check", "load_checked", "prepare", "write_shards"]


def load_checked(file: Path) -> Experiment:
    """Read an experiment file and check it, before anybody asks for the experiment's digest.

    Raises:
        ConfigError: one line that names file, key and the nearest valid name.
    """
    experiment = load_experiment(file)
    check(experiment, where=file.name)
    return experiment


def check(experiment: Experiment, *, where: str) -> None:
    """Resolve every plugin that the experiment names, with its options, and build its models.

    Raises:
        ConfigError: one line that names file, key and the nearest valid name.
    """
    for key, test in _tests(experiment):
        try:
            test()
        except ConfigError as error:
            raise ConfigError(f"{where}: {key}: {error}") from error


def prepare(
    experiment: Experiment,
    run: RunFolder,
    private: PrivateFolder,
    *,
    master_file: Path,
    where: str,
) -> None:
    """Write all that the services start from: experiment, weights, shards, keys, certificates.

    Args:
        experiment: resolved and checked.
        run: public folder.
        private: folder that the attacker must not read.
        master_file: this machine's own secret, made when missing; clients' secrets derive from it.
        where: the experiment file's name, for messages.

    Raises:
        ConfigError: the data do not suit the experiment, or the folder belongs to another one.
    """
    if run.experiment_file.exists():
        there = run.read_experiment()
        if there != experiment:
            raise ConfigError(
                f"{run.root} holds experiment {there.id}, not {experiment.id}; take another folder"
            )
        if run.initial_file.exists():  # written last: everything else was there
            if not private.judge_private.exists():
                raise ConfigError(
                    f"{run.root} was sealed for keys that are gone from {private.root}; "
                    "delete it, or take another folder"
                )
            return
    try:
        cards = _write_private(experiment, private, master=_master_secret(master_file))
    except ConfigError as error:  # the data set or the partition refuses
        raise ConfigError(f"{where}: data: {error}") from error
    _check_data(experiment, private, cards, where=where)
    run.write_experiment(experiment)
    for folder in (run.artefacts, run.vault):
        folder.mkdir(parents=True, exist_ok=True)
    graphs = {arm.name: write_graphs(experiment, arm, run) for arm in experiment.arms}
    run.graphs_file.write_bytes(canonical_json(graphs) + b"\n")
    digests = {arm.name: _write_weights(arm, experiment.seed, run) for arm in experiment.arms}
    run.initial_file.write_bytes(canonical_json(digests) + b"\n")


def write_shards(
    experiment: Experiment, *, folder_of: Callable[[str], Path], auxiliary: Path
) -> list[ShardCard]:
    """Partition the experiment's data set into one folder per client."""
    return prepare_shards(
        experiment.data,
        client_ids=experiment.client_ids,
        seed=experiment.seed,
        client_folder=folder_of,
        auxiliary_file=auxiliary,
    )


def _tests(experiment: Experiment) -> Iterator[tuple[str, Callable[[], object]]]:
    """What must resolve, with the key under which the file names it."""
    data, hardware = experiment.data, experiment.hardware
    yield "data.dataset", partial(build, DATASETS, data.dataset)
    yield "data.partition", partial(build, PARTITIONS, data.partition)
    yield "hardware.meter", partial(build, METERS, hardware.meter)
    yield "hardware.energy_model", partial(load_energy_model, hardware.energy_model)
    for device in experiment.devices:
        yield f"device {device.name!r}: backend", partial(BACKENDS.where, device.backend)
    for arm in experiment.arms:
        at = "" if len(experiment.arms) == 1 else f"arm {arm.name!r}: "
        for key, test in _arm_tests(arm):
            yield at + key, test
        yield at + "defences", partial(_check_cohort, experiment, arm)
        yield at + "devices", partial(check_devices, experiment, arm)


def _arm_tests(arm: Arm) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "model.name", partial(MODELS.where, arm.model.name)
    yield "model.neuron.name", partial(NEURONS.where, arm.model.neuron.name)
    yield "model", partial(build_model, arm.model)
    yield "encoding", partial(encoding_of, arm.encoding)
    yield "training.rule", partial(LEARNING_RULES.where, arm.training.rule)
    yield "codec", partial(build, CODECS, arm.codec)
    yield "strategy", partial(build, STRATEGIES, arm.strategy)
    for number, defence in enumerate(arm.defences):
        yield f"defences[{number}]", partial(build, DEFENCES, defence)
    yield "defences", partial(_check_defences, arm)
    yield "threat", partial(_check_threat, arm)
    yield "attack", partial(_check_attack, arm)


def _trained_model(arm: Arm) -> ModelSpec:
    """The arm's model, as its defences change it."""
    return chain(arm.defences).model(arm.model)


def _check_defences(arm: Arm) -> None:
    """What they make of the model must be one, and give the gradients that they ask for."""
    for step in chain(arm.defences).steps:
        if isinstance(step, DpSgd) and step.batch_size != arm.training.batch_size:
            raise ConfigError(
                f"dp-sgd divides by its batch_size, {step.batch_size}, but training.batch_size is "
                f"{arm.training.batch_size}; make them equal, since the guarantee rests on it"
            )
    network = build_model(_trained_model(arm))
    if network.mixes_examples and "example_gradients" in chain(arm.defences).hooks:
        raise ConfigError(
            "dp-sgd takes the gradient of each example by itself, and normalisation 'batch-train' "
            "mixes the examples of a batch; take another normalisation or another defence"
        )


def _check_cohort(experiment: Experiment, arm: Arm) -> None:
    """Masks must arrive as they were made, cancel in every round, and fit into the ring."""
    n_clients = experiment.n_clients
    for defence in chain(arm.defences).steps:
        if not isinstance(defence, SecureAggregation):
            continue
        if arm.codec.name != "f32":
            raise ConfigError(
                f"secure-aggregation needs codec 'f32', which carries whole numbers unchanged; "
                f"got {arm.codec.name!r}"
            )
        if arm.clients and len(experiment.clients_of(arm)) < n_clients:
            raise ConfigError(
                f"secure-aggregation needs every client; arm.clients names {len(arm.clients)} of "
                f"{n_clients}"
            )
        if arm.schedule.quorum < n_clients:
            raise ConfigError(
                f"secure-aggregation needs every client in every round; set schedule.quorum = "
                f"{n_clients}, got {arm.schedule.quorum}"
            )
        if n_clients > defence.max_clients:
            raise ConfigError(
                f"secure-aggregation with bits = {defence.bits} sums at most "
                f"{defence.max_clients} clients, this experiment has {n_clients}; lower bits"
            )


def _check_threat(arm: Arm) -> None:
    """What is granted must be there."""
    if arm.threat.batch_statistics and not build_model(_trained_model(arm)).norms:
        raise ConfigError(
            f"batch_statistics are granted, and model {arm.model.name!r} with these options "
            "normalises nothing; set its option normalisation, or grant something else"
        )


def _check_attack(arm: Arm) -> None:
    """An attack that is not told what it needs would only fail after the federation."""
    attack = build(ATTACKS, Choice(name=arm.attack.name, options=arm.attack.options))
    refused = [name for name in attack.requires if name not in arm.threat.grants]
    if refused:
        raise ConfigError(
            f"{arm.attack.name!r} with these options requires {' and '.join(refused)}, which the "
            f"threat model does not grant; set {', '.join(f'threat.{n} = true' for n in refused)} "
            "or change the options"
        )


def _write_private(
    experiment: Experiment, private: PrivateFolder, *, master: ClientSecret
) -> list[ShardCard]:
    private.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificates = private.root / "certs"
    make_certificates(certificates, client_ids=experiment.client_ids)
    for name in ("aggregator", "attacker", *experiment.client_ids):
        private.service(name).mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in ("ca.crt", f"{name}.crt", f"{name}.key"):
            shutil.copy(certificates / file, private.service(name) / file)
    key = JudgeKey.generate()
    key.write(private=private.judge_private, public=private.judge_public)
    for client_id in experiment.client_ids:
        own = private.service(client_id)
        shutil.copy(private.judge_public, own / private.judge_public.name)
        master.derive("client", client_id).write(private.secret_file(client_id))
        if _hides_updates(experiment):
            pairs = PairSecrets.deal(client_id, experiment.client_ids, master=master)
            pairs.write(own / "peers")
        (own / "client.toml").write_text(_client_settings(experiment, client_id))
    return write_shards(experiment, folder_of=private.service, auxiliary=private.auxiliary_file)


def _client_settings(experiment: Experiment, client_id: str) -> str:
    """The client's settings file; its paths are relative to the folder it lies in."""
    hardware, device = experiment.hardware, experiment.device_of(client_id)
    options = ", ".join(f"{k} = {json.dumps(v)}" for k, v in hardware.meter.options.items())
    return f"""\
name = "{client_id}"
certs = "."
shard = "."
secret = "secret"
judge_key = "judge.pub"
cache = "cache"
backend = "{device.backend}"
threads = {device.threads}
accelerator = "{device.accelerator}"
meter = {{ name = "{hardware.meter.name}", options = {{ {options} }} }}
period_s = {hardware.period_s}
energy_model = "{hardware.energy_model}"
baseline_s = {hardware.baseline_s}
{'peers = "peers"' if _hides_updates(experiment) else ""}
"""


def _hides_updates(experiment: Experiment) -> bool:
    """Whether the clients need secrets with each other."""
    return any("hidden" in chain(arm.defences).hooks for arm in experiment.arms)


def _master_secret(path: Path) -> ClientSecret:
    """The machine's own secret: kept, so that an experiment draws the same bits here twice."""
    if not path.exists():
        ClientSecret.random().write(path)
    return ClientSecret.read(path)


def _check_data(
    experiment: Experiment, private: PrivateFolder, cards: Sequence[ShardCard], *, where: str
) -> None:
    """What only the data can tell: whether encodings, models and batches suit them."""
    example = read_shard(private.service(experiment.client_ids[0])).inputs[:1]
    n_classes = len(cards[0].label_counts)
    largest = max(card.n_train for card in cards)
    for arm in experiment.arms:
        at = f"{where}: arm {arm.name!r}"
        try:
            train = encode(arm.encoding, example, stream(experiment.seed, "trial"))
        except ConfigError as error:
            raise ConfigError(f"{at}: encoding: {error}") from error
        if arm.model.input_shape != train.shape[2:] or arm.model.n_classes < n_classes:
            raise ConfigError(
                f"{at}: model.input_shape {list(arm.model.input_shape)} and n_classes "
                f"{arm.model.n_classes} do not fit the encoded data's {list(train.shape[2:])} "
                f"and {n_classes}"
            )
        if arm.training.batch_size > largest:  # a smaller shard than others is one batch
            raise ConfigError(
                f"{at}: training.batch_size is {arm.training.batch_size}, but no client has more "
                f"than {largest} examples to learn from"
            )


def _write_weights(arm: Arm, seed: int, run: RunFolder) -> str:
    blob = pack_weights(initial_weights(_trained_model(arm), seed))
    digest = hashlib.sha256(blob).hexdigest()
    (run.artefacts / digest).write_bytes(blob)
    return digest
