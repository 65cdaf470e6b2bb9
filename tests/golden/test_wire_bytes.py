"""The bytes that cross the wire and that digests name. They change only together with a version.

`pytest --update-golden` writes the files; every file is also read back here.
"""

import hashlib

import numpy as np
import pytest

from fedcore.codecs.base import CODECS, codec_of
from fedcore.conditions import Conditions
from fedcore.energy import (
    Baseline,
    Boundary,
    EnergyReading,
    Evaluation,
    IdlePower,
    ModelledEnergy,
    Phase,
    PhaseRecord,
    PhaseReport,
    Surroundings,
    WindowRecord,
)
from fedcore.plan import Choice, EncodingSpec, ModelSpec, NeuronSpec, RoundPlan, Training
from fedcore.tensors import pack_weights, unpack_weights
from fedcore.types import Missing, Ticket, Update
from fedcore.update_blob import pack_update, unpack_update
from fedcore.wire.messages import plan_from_bytes, plan_to_bytes, report_from_proto, report_to_proto
from protos.v1 import rounds_pb2

# Exact in every codec but int8: small multiples of a power of two.
TENSORS = {
    "conv1.weight": (np.arange(-4, 4, dtype=np.float32) / 8).reshape(2, 1, 2, 2),
    "conv1.bias": np.array([0.0, -1.5], dtype=np.float32),
    "readout.weight": np.array([[0.25, 0.0], [0.0, 2.0]], dtype=np.float32),
}
SCHEMA = {name: tensor.shape for name, tensor in TENSORS.items()}
UPDATE = Update(kind="gradient", tensors=TENSORS, n_examples=8, plan_digest="ab" * 32)

PLAN = RoundPlan(
    run_id="golden-snn-0a1b2c3d",
    round=3,
    experiment_digest="cd" * 32,
    model=ModelSpec(spiking=True, neuron=NeuronSpec(decay=0.875), options={}),
    weights="ef" * 32,
    encoding=EncodingSpec(name="rate", n_steps=8, options={"max_rate": 0.5}),
    training=Training(update="delta", local_steps=2, batch_size=4),
    defences=(Choice(name="clip", options={"max_norm": 1.0}),),
    codec=Choice(name="int8"),
    evaluate=True,
)

CONDITIONS = Conditions(
    temperatures_c={"thermal_zone0 cpu-thermal": 39.5},
    throttling=Missing(why="the kernel shows no throttle counters"),
    clock_hz=(1_500_000_000, 2_400_000_000),
)
READING = EnergyReading(
    energy_j=1.5,
    uncertainty_j=0.125,
    duration_s=0.5,
    rail="package-0",
    boundary=Boundary.CPU_PACKAGE,
    method="counter",
    coverage=1.0,
    n_samples=6,
    longest_gap_s=0.1,
    meter="rapl 1",
    flags=("shared(4)", "wrapped"),
)
REPORT = PhaseReport(
    ticket=Ticket(run_id="golden-snn-0a1b2c3d", round=3, client_id="client-1"),
    attempt=2,
    phases=(
        PhaseRecord(
            phase=Phase.TRAIN,
            start_mono_ns=123_456_789,
            duration_s=0.5,
            cpu_s=0.25,
            measured=(READING,),
            modelled=ModelledEnergy(
                energy_j=1.0, low_j=0.5, high_j=2.0, model="table", inputs="0.25 CPU-s x 4 W"
            ),
        ),
        PhaseRecord(
            phase=Phase.SUBMIT,
            start_mono_ns=623_456_789,
            duration_s=0.0625,
            cpu_s=0.03125,
            measured=Missing(why="no sensor"),
            modelled=Missing(why="no table"),
        ),
    ),
    evaluation=Evaluation(n_correct=3, n_examples=4, mean_loss=0.75),
    clock_offset_s=-0.5,
    clock_uncertainty_s=0.001,
    machine_card="12" * 32,
    surroundings=Surroundings(
        start=CONDITIONS,
        end=CONDITIONS,
        baselines=(
            Baseline(
                start_mono_ns=1,
                duration_s=2.0,
                rails=(
                    IdlePower(
                        power_w=2.5,
                        uncertainty_w=0.125,
                        rail="package-0",
                        boundary=Boundary.CPU_PACKAGE,
                        meter="rapl 1",
                    ),
                ),
            ),
        ),
        windows=(
            WindowRecord(
                name="round",
                start_mono_ns=123_456_789,
                duration_s=0.5625,
                cpu_s=0.28125,
                measured=(READING,),
                modelled=Missing(why="no table"),
            ),
        ),
    ),
)


@pytest.mark.parametrize("name", CODECS.names())
def test_an_update_has_these_bytes(name, golden) -> None:
    codec = Choice(name=name)
    blob = pack_update(UPDATE, codec=codec, client_id="client-1")
    kept = golden.read(f"update-{name}.safetensors", now=blob)
    assert blob == kept
    back = unpack_update(kept, schema=SCHEMA, plan_digest=UPDATE.plan_digest, codec=codec)
    assert (back.kind, back.n_examples, list(back.tensors)) == ("gradient", 8, list(TENSORS))
    for tensor, values in TENSORS.items():
        bound = codec_of(codec).error_bound(values) if name.startswith("int") else 0.0
        np.testing.assert_allclose(back.tensors[tensor], values, rtol=0, atol=bound)


def test_weights_have_these_bytes(golden) -> None:
    blob = pack_weights(TENSORS)
    kept = golden.read("weights.safetensors", now=blob)
    assert blob == kept
    back = unpack_weights(kept)
    assert all(np.array_equal(back[name], tensor) for name, tensor in TENSORS.items())


def test_a_plan_has_these_bytes_and_their_digest(golden) -> None:
    data = plan_to_bytes(PLAN)
    kept = golden.read("plan.json", now=data)
    assert data == kept
    digest = golden.read("plan.sha256", now=hashlib.sha256(data).hexdigest().encode()).decode()
    assert plan_from_bytes(kept) == (PLAN, digest)


def test_a_phase_report_has_these_bytes(golden) -> None:
    message = report_to_proto(REPORT).SerializeToString(deterministic=True)
    kept = golden.read("phase-report.binpb", now=message)
    assert message == kept
    assert report_from_proto(rounds_pb2.PhaseReport.FromString(kept)) == REPORT
