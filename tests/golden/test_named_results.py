"""What a name or a seed stands for: digests of experiments, random streams, initial weights."""

import hashlib
import json

import numpy as np
import pytest

from fedcore.config import parse_experiment
from fedcore.plan import ModelSpec
from fedcore.seeds import ClientSecret, stream
from fedcore.strict import canonical_json
from fedcore.tensors import pack_weights

TABLE = {
    "name": "golden",
    "seed": 7,
    "n_clients": 2,
    "training": {"batch_size": 1},
    "arms": [
        {"name": "ann"},
        {"name": "snn", "model": {"spiking": True}, "encoding": {"n_steps": 8}},
    ],
}


def test_an_experiment_has_this_resolved_form_and_digest(golden) -> None:
    experiment = parse_experiment(TABLE, where="golden")
    data = canonical_json(experiment)
    kept = golden.read("experiment.json", now=data)
    assert data == kept
    assert parse_experiment(json.loads(kept), where="kept") == experiment
    digest = golden.read("experiment.sha256", now=experiment.digest.encode()).decode()
    assert experiment.digest == digest == hashlib.sha256(kept).hexdigest()
    assert experiment.run_id(experiment.arms[1]) == f"golden-snn-{digest[:8]}"


def draws(rng: np.random.Generator) -> dict[str, list[float]]:
    """The first numbers of each kind that Leakwatt draws; JSON keeps every bit of a float."""
    return {
        "random": rng.random(4).tolist(),
        "uniform": rng.uniform(-1, 1, 4).tolist(),
        "normal": rng.normal(0, 1, 4).tolist(),
        "integers": rng.integers(1000, size=4).tolist(),
        "permutation": rng.permutation(8).tolist(),
    }


def test_named_streams_begin_with_these_numbers(golden) -> None:
    secret = ClientSecret(bytes(range(32)))
    found = {
        "public, seed 7, encode 3": draws(stream(7, "encode", 3)),
        "public, seed 7, encode 4": draws(stream(7, "encode", 4)),
        "secret, encode run 3": draws(secret.stream("encode", "run", 3)),
        "derived secret, encode run 3": draws(secret.derive("client", "a").stream("encode", 3)),
    }
    now = json.dumps(found, indent=2).encode() + b"\n"
    assert json.loads(golden.read("streams.json", now=now)) == found
    assert len({json.dumps(numbers) for numbers in found.values()}) == len(found)


@pytest.mark.torch
def test_the_initial_weights_of_a_seed_are_these(golden) -> None:
    pytest.importorskip("torch")
    from fedcore.nn.models import initial_weights

    blobs = [pack_weights(initial_weights(ModelSpec(name="lenet"), seed)) for seed in (0, 1)]
    found = [hashlib.sha256(blob).hexdigest() for blob in blobs]
    kept = golden.read("lenet-seeds-0-1.sha256", now="\n".join(found).encode() + b"\n")
    assert kept.decode().split() == found
    assert found[0] != found[1]
