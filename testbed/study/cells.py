"""One cell, from its data to its scores.

data -> network -> updates, as clients send them -> attack -> scores
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time

import numpy as np

from attacker.attacks import ATTACKS
from attacker.attacks.base import Budget
from edge_client.vault import Truth
from fedcore.data.datasets import Examples
from fedcore.data.encodings import encode
from fedcore.errors import AttackError, ConfigError, KnowledgeError
from fedcore.nn.models import build as build_network
from fedcore.plan import Choice, ModelSpec
from fedcore.seeds import stream
from fedcore.strict import build, digest
from fedcore.tensors import pack_weights
from fedcore.types import Knowledge, Missing, Observation, Reconstruction
from testbed.baselines import Auxiliary, Pool
from testbed.metrics import METRICS
from testbed.report.canvas import picture_uri
from testbed.scoring import Case, attempt_of, baseline_guesses, score_case
from testbed.study.design import AttackSetting, Cell
from testbed.study.fingerprint import CELL_SOURCES, NETWORK_SOURCES, fingerprint
from testbed.study.material import Material, load_material
from testbed.study.results import Outcome, Picture, StudyFolder, TrainedNetwork
from testbed.study.updates import send
from testbed.training import accuracy, train

__all__ = ["SCORED", "Laboratory", "Told"]

SCORED = (
    "psnr",
    "ssim",
    "mse",
    "reidentified",
    "identified",
    "label-accuracy",
    "spike-iou",
    "temporal-correlation",
    "smape",
    "correlation",
)
"""The metrics of a study; FSIM and its like would cost more than the attacks."""

_N_PICTURES = 4
_N_EVALUATED = 1000
_FOR_SPIKES = ("rate", "latency", "delta")

Told = Callable[[int, int], None]
"""Told now and then by an attack: iterations done, and in all."""


@dataclass(kw_only=True)
class Laboratory:
    """Runs cells, and keeps what the next one may need.

    Attributes:
        roots: folders with data sets.
        folder: of the study.
    """

    roots: Sequence[Path]
    folder: StudyFolder
    code: str = field(default_factory=lambda: fingerprint(CELL_SOURCES), init=False)
    _network_code: str = field(default_factory=lambda: fingerprint(NETWORK_SOURCES), init=False)
    _latest: tuple[str, Material | Missing] | None = field(default=None, init=False)

    def run(self, cell: Cell, *, tell: Told) -> Outcome:
        """The outcome of a cell, whatever it is."""
        material = self._material(cell)
        if isinstance(material, Missing):
            return Outcome(state="missing", why=material.why)
        try:
            return self._attacked(cell, material, tell=tell)
        except (AttackError, ConfigError, KnowledgeError) as why:
            return Outcome(state="refused", why=str(why))

    def _material(self, cell: Cell) -> Material | Missing:
        """The examples; only the latest set is kept, since cells of one set follow each other."""
        key = digest(cell.source)
        if self._latest is None or self._latest[0] != key:
            self._latest = key, load_material(cell.source, self.roots)
        return self._latest[1]

    def _attacked(self, cell: Cell, material: Material, *, tell: Told) -> Outcome:
        batches = material.batches(cell.n_victims, size=cell.batch_size)
        model = _model(cell, material)
        attack = build(ATTACKS, Choice(name=cell.setting.name, options=cell.setting.options))
        for capability in attack.requires:
            if capability not in cell.setting.knows:
                raise KnowledgeError(f"it needs {capability!r}, which its setting does not know")
        network = self._network(cell, model, material)
        started_s = process_time()
        sent = [
            send(
                batch,
                model=model,
                encoding=cell.encoding,
                weights=network.weights,
                client=i,
                rng=stream(cell.seed, "secret", i),
            )
            for i, batch in enumerate(batches)
        ]
        answers = attack.reconstruct(
            [seen for seen, _ in sent],
            [_told(cell.setting, batch, material.auxiliary) for batch in batches],
            rng=stream(cell.seed, "attack"),
            budget=Budget(restarts=cell.setting.restarts, iterations=cell.setting.iterations),
            progress=lambda n, of, _: tell(n, of),
        )
        if why := _refused_all(answers):
            return Outcome(
                state="refused",
                why=why,
                accuracy=network.accuracy,
                cpu_s=process_time() - started_s,
            )
        return _scored(
            cell,
            model,
            sent,
            answers,
            material.auxiliary,
            network=network,
            started_s=started_s,
        )

    def _network(self, cell: Cell, model: ModelSpec, material: Material) -> TrainedNetwork:
        """Trained now, unless its weights lie in the study's folder."""
        n_seen = cell.source.n_seen if cell.stage == "trained" else 0
        key = digest((cell.source, model, cell.encoding, n_seen, cell.seed, self._network_code))
        network = self.folder.network(key)
        if network is None:
            started_s = process_time()
            (weights,) = train(
                model, cell.encoding, material.train, n_seen=(n_seen,), seed=cell.seed
            )
            network = TrainedNetwork(
                weights=pack_weights(weights),
                accuracy=accuracy(model, cell.encoding, weights, material.first(_N_EVALUATED)),
                cpu_s=process_time() - started_s,
            )
            self.folder.keep_network(key, network)
        return network


def _model(cell: Cell, material: Material) -> ModelSpec:
    """The network for this data.

    Raises:
        ConfigError: data, encoding and network do not go together.
    """
    if cell.twin == "ann" and cell.encoding.name in _FOR_SPIKES:
        raise ConfigError(
            f"encoding {cell.encoding.name!r} makes spikes; a conventional network is given the "
            "input itself (direct, or events as they are)"
        )
    example = material.train.inputs[:1]
    train_shape = encode(cell.encoding, example, stream(cell.seed, "trial")).shape
    model = cell.model(input_shape=train_shape[2:], n_classes=len(material.train.class_names))
    build_network(model)
    return model


def _told(setting: AttackSetting, batch: Examples, auxiliary: Auxiliary) -> Knowledge:
    """What the setting grants; labels come sorted, since an update has no order."""
    knows_data = "auxiliary_data" in setting.knows
    return Knowledge(
        labels=np.sort(batch.labels) if "labels" in setting.knows else None,
        auxiliary_inputs=auxiliary.inputs if knows_data else None,
        auxiliary_labels=auxiliary.labels if knows_data else None,
    )


def _refused_all(answers: Sequence[Reconstruction]) -> str:
    """Why no victim was even tried, or ""."""
    if any(answer.n_iterations or not answer.failed for answer in answers):
        return ""
    return answers[0].failed


def _scored(
    cell: Cell,
    model: ModelSpec,
    sent: Sequence[tuple[Observation, Truth]],
    answers: Sequence[Reconstruction],
    auxiliary: Auxiliary,
    *,
    network: TrainedNetwork,
    started_s: float,
) -> Outcome:
    cases = [
        Case.of(ticket=seen.ticket, sha256=seen.sha256, truth=truth, answer=answer)
        for (seen, truth), answer in zip(sent, answers, strict=True)
    ]
    pool = Pool.of(auxiliary, [truth.inputs for _, truth in sent])
    baselines = [
        baseline_guesses(
            case,
            seed=cell.seed,
            encoding=cell.encoding,
            n_classes=model.n_classes,
            auxiliary=auxiliary,
        )
        for case in cases
    ]
    scores = tuple(
        score_case(
            case,
            name,
            METRICS.get(name),
            baselines=guesses,
            pool=pool,
            labels_are_granted="labels" in cell.setting.knows,
        )
        for name in SCORED
        for case, guesses in zip(cases, baselines, strict=True)
    )
    return Outcome(
        state="done",
        accuracy=network.accuracy,
        training_s=network.cpu_s,
        n_pool=len(pool),
        attempts=tuple(attempt_of(case) for case in cases),
        scores=scores,
        pictures=_pictures(cases, [truth for _, truth in sent]),
        cpu_s=process_time() - started_s,
    )


def _pictures(cases: Sequence[Case], truths: Sequence[Truth]) -> tuple[Picture, ...]:
    """Of the first examples of the first victims."""
    pairs = [
        (example, None if case.chosen is None else case.chosen.inputs[i])
        for case, truth in zip(cases, truths, strict=True)
        for i, example in enumerate(truth.inputs)
    ]
    return tuple(
        Picture(truth=_uri(truth), guess="" if guess is None else _uri(guess))
        for truth, guess in pairs[:_N_PICTURES]
    )


def _uri(example: np.ndarray) -> str:
    """An image as it is, events summed over time, a series as a picture of channel by time."""
    if example.ndim == 4:
        example = example.sum(axis=0)
        example = example / max(1.0, float(example.max()))
    elif example.ndim == 2:
        example = example[np.newaxis]
    return picture_uri(example) or ""
