"""Victims made as clients make them, and a shorthand for attacking them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.attacks import ATTACKS  # noqa: E402
from attacker.attacks.base import Budget  # noqa: E402
from fedcore.data.encodings import encode  # noqa: E402
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import draws, gradient  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import Choice, EncodingSpec, ModelSpec, RoundPlan, Training  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.strict import build as build_plugin  # noqa: E402
from fedcore.types import Knowledge, Observation, Reconstruction, Ticket  # noqa: E402

GENERATORS: dict[str, dict[str, Any]] = {
    "deep-prior": {"channels": 4},
    "gi-nas": {"channels": 4, "candidates": 2},
    "gion": {"channels": 4},
    "grnn": {"channels": 4},
}
"""Attacks that search a generator's weights, with options that make it small."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    inputs: np.ndarray
    labels: np.ndarray


@dataclass(kw_only=True)
class Laboratory:
    """Digits (examples, [example, 1, 8, 8]) and what can be done with them."""

    images: np.ndarray
    labels: np.ndarray
    truths: dict[Ticket, Truth] = field(default_factory=dict)

    def victim(
        self,
        examples: Sequence[int],
        *,
        model: ModelSpec,
        encoding: EncodingSpec | None = None,
        round: int = 0,
        client: int = 0,
        inputs: np.ndarray | None = None,
    ) -> Observation:
        """The update of a client with these examples; every round has weights of its own."""
        encoding = encoding or EncodingSpec()
        raw = self.images[list(examples)] if inputs is None else inputs
        labels = self.labels[list(examples)]
        weights = initial_weights(model, seed=round)
        train = encode(encoding, raw, stream(client, "secret"))
        network = build(model)
        received = to_tensor(train)
        slopes = gradient(
            network,
            to_tensors(weights),
            received,
            to_tensor(labels),
            draws(network, received, stream(client, "draws")),
        )
        plan = RoundPlan(
            run_id="run",
            round=round,
            experiment_digest="",
            model=model,
            weights="",
            encoding=encoding,
            training=Training(batch_size=len(raw)),
        )
        ticket = Ticket(run_id="run", round=round, client_id=f"client-{client}")
        self.truths[ticket] = Truth(inputs=raw, labels=labels)
        return Observation(
            ticket=ticket,
            plan=plan,
            weights=weights,
            tensors=to_arrays(slopes),
            kind="gradient",
            n_examples=len(raw),
            sha256=hashlib.sha256(str(ticket).encode()).hexdigest(),
            n_bytes=1,
        )

    def attack(
        self,
        name: str,
        seen: Sequence[Observation],
        *,
        restarts: int = 1,
        iterations: int,
        known: Sequence[Knowledge] | None = None,
        progress: Callable[..., None] = lambda *_: None,
        **options: Any,
    ) -> list[Reconstruction]:
        options = GENERATORS.get(name, {}) | options
        return build_plugin(ATTACKS, Choice(name=name, options=options)).reconstruct(
            seen,
            known or [Knowledge()] * len(seen),
            rng=stream(0, "attack"),
            budget=Budget(restarts=restarts, iterations=iterations),
            progress=progress,
        )

    def psnr_db(self, answer: Reconstruction) -> float:
        """Of the attacker's own choice; examples of a batch in the order that fits best."""
        guess, truth = answer.candidates[answer.chosen], self.truths[answer.ticket].inputs
        errors = np.array([[np.mean((g - t) ** 2) for t in truth] for g in guess])
        return float(-10 * np.log10(max(errors.min(axis=0).mean(), 1e-20)))

    def labels_are_right(self, answer: Reconstruction) -> bool:
        truth = self.truths[answer.ticket].labels
        return sorted(answer.labels[answer.chosen]) == sorted(truth)


@pytest.fixture
def laboratory() -> Laboratory:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    torch.set_num_threads(1)
    return Laboratory(
        images=(digits.images[:, None] / 16).astype(np.float32),
        labels=digits.target.astype(np.int64),
    )
