"""What changes no answer of an attack: the order within a batch, the length of an update."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fedcore.plan import ModelSpec  # noqa: E402
from fedcore.types import Knowledge  # noqa: E402

pytestmark = pytest.mark.torch

RELU = ModelSpec(name="convnet", options={"channels": [8, 8]})
SPIKING = replace(RELU, spiking=True, init_gain=3.0)


@pytest.mark.parametrize("model", [RELU, SPIKING], ids=["ann", "snn"])
def test_peeling_reads_ratios_and_no_lengths(model: ModelSpec, laboratory) -> None:
    seen = laboratory.victim([9], model=model)
    scaled = {name: t * np.float32(2.0**-40) for name, t in seen.tensors.items()}
    whole, shorter = (
        laboratory.attack("peeling", [o], iterations=20)[0]
        for o in (seen, replace(seen, tensors=scaled))
    )
    np.testing.assert_allclose(shorter.candidates, whole.candidates, atol=1e-6)
    np.testing.assert_array_equal(shorter.labels, whole.labels)


@pytest.mark.parametrize("name", ["inverting-gradients", "dlg", "peeling"])
def test_a_batch_has_no_order_on_the_wire(name: str, laboratory) -> None:
    """Sums in another order differ in their last bits, and a long search would amplify these."""
    forwards, backwards = (
        laboratory.victim(examples, model=RELU) for examples in ([3, 1, 4], [4, 1, 3])
    )
    known = Knowledge(labels=np.sort(laboratory.labels[[3, 1, 4]]))
    one, other = (
        laboratory.attack(name, [seen], known=[known], iterations=10)[0]
        for seen in (forwards, backwards)
    )
    np.testing.assert_allclose(one.candidates, other.candidates, atol=1e-2)
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-2)
