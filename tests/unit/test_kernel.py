"""Streams, registry, identities, sealed truth, clock: the small laws everything stands on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fedcore.clock import ClockOffset
from fedcore.energy import Boundary, EnergyReading, ModelledEnergy
from fedcore.errors import (
    ConfigError,
    IdentityError,
    KnowledgeError,
    MeterError,
    PluginError,
    RunError,
    StorageError,
)
from fedcore.ground_truth import JudgeKey, VictimRecord, open_record, read_public_key, seal_record
from fedcore.health import Pulse
from fedcore.identity import Identity, Role
from fedcore.registry import Registry
from fedcore.seeds import ClientSecret, stream
from fedcore.types import Knowledge, ThreatModel, Ticket

TICKET = Ticket(run_id="run", round=1, client_id="client-0")


def test_one_stream_per_purpose() -> None:
    assert stream(7, "a").random() == stream(7, "a").random()
    assert stream(7, "a").random() != stream(7, "b").random()
    assert stream(7, "a").random() != stream(8, "a").random()
    assert stream(7, "1", 2).random() != stream(7, 1, "2").random()


def test_a_secret_is_not_the_public_seed_and_does_not_show_itself() -> None:
    secret = ClientSecret.random()
    assert secret.stream("encode").random() == secret.stream("encode").random()
    assert secret.stream("encode").random() != ClientSecret.random().stream("encode").random()
    assert secret.derive("client-0") != secret.derive("client-1")
    assert secret.key.hex() not in repr(secret)


def test_a_secret_file_is_private_and_reads_back(tmp_path: Path) -> None:
    secret, path = ClientSecret.random(), tmp_path / "folder" / "secret"
    secret.write(path)
    assert ClientSecret.read(path) == secret
    assert path.stat().st_mode & 0o077 == 0
    path.chmod(0o644)
    secret.write(path)
    assert path.stat().st_mode & 0o077 == 0
    path.write_text("12zz")
    with pytest.raises(ConfigError, match="not a client secret"):
        ClientSecret.read(path)


def test_a_wrong_plugin_name_gets_help_and_listing_imports_nothing() -> None:
    registry: Registry[object] = Registry(
        "codec", {"f32": "no_such_module:Codec", "f16": "json:dumps"}
    )
    assert registry.names() == ["f16", "f32"]
    with pytest.raises(
        PluginError, match=r"no codec 'f23' \(known: f16, f32\); did you mean 'f32'"
    ):
        registry.get("f23")
    with pytest.raises(PluginError, match="needs the package 'no_such_module'"):
        registry.get("f32")
    with pytest.raises(ValueError, match="already exists"):
        registry.add("f16", "json:loads")


def test_a_plugin_that_is_not_where_it_says_gets_help() -> None:
    registry: Registry[object] = Registry("codec", {"mine": "fedcore.types:Nothing"})
    with pytest.raises(PluginError, match=r"codec 'mine': fedcore\.types has no 'Nothing'"):
        registry.get("mine")


def test_a_pulse_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="pulse cannot be written"):
        Pulse(tmp_path / "nowhere" / "pulse").beat()


def test_a_role_is_not_another() -> None:
    client = Identity(role=Role.CLIENT, name="client-0")
    assert Identity.from_uri(client.uri) == client
    client.require(Role.CLIENT, name="client-0")
    with pytest.raises(IdentityError):
        client.require(Role.ATTACKER)
    with pytest.raises(IdentityError):
        client.require(Role.CLIENT, name="client-1")


@pytest.mark.parametrize(
    "uri",
    ["", "https://client/x", "leakwatt://king/x", "leakwatt://client/../x", "leakwatt://client/"],
)
def test_a_strange_certificate_name_is_nobody(uri: str) -> None:
    with pytest.raises(IdentityError):
        Identity.from_uri(uri)


@pytest.mark.parametrize("client_id", ["", "A", "a/b", "..", "a" * 64, "a b", "a\n"])
def test_a_ticket_refuses_ids_that_are_unsafe_in_paths(client_id: str) -> None:
    with pytest.raises(ConfigError):
        Ticket(run_id="run", round=0, client_id=client_id)


def record() -> VictimRecord:
    return VictimRecord(
        ticket=TICKET,
        sha256="ab" * 32,
        inputs=np.random.default_rng(0).random((2, 1, 3, 3), dtype=np.float32),
        labels=np.array([3, 4]),
        encoded_input=np.ones((5, 2, 1, 3, 3), np.float32),
        batch_sizes=(2,),
    )


def test_sealed_truth_opens_with_the_judges_key_alone(tmp_path: Path) -> None:
    key = JudgeKey.generate()
    (tmp_path / "judge.key").touch(mode=0o644)
    key.write(private=tmp_path / "judge.key", public=tmp_path / "judge.pub")
    sealed = seal_record(record(), to=read_public_key(tmp_path / "judge.pub"))
    opened = open_record(sealed, key=JudgeKey.read(tmp_path / "judge.key"))
    for name in ("inputs", "labels", "encoded_input"):
        assert np.array_equal(getattr(opened, name), getattr(record(), name))
    assert (opened.ticket, opened.sha256, opened.batch_sizes) == (TICKET, "ab" * 32, (2,))
    assert (tmp_path / "judge.key").stat().st_mode & 0o077 == 0
    with pytest.raises(RunError):
        open_record(sealed, key=JudgeKey.generate())
    with pytest.raises(RunError):
        open_record(sealed[:-1] + bytes([sealed[-1] ^ 1]), key=key)


def test_sealing_shows_neither_pixels_nor_labels() -> None:
    key = JudgeKey.generate()
    sealed = seal_record(record(), to=key.private.public_key)
    assert record().inputs.tobytes()[:16] not in sealed
    assert sealed != seal_record(record(), to=key.private.public_key)  # an ephemeral key each time


def test_what_is_not_granted_is_refused() -> None:
    assert Knowledge(labels=np.array([1])).need("labels") == [1]
    with pytest.raises(KnowledgeError, match="does not grant 'encoded_input'"):
        Knowledge().need("encoded_input")
    assert ThreatModel().grants == ("n_examples", "surrogate")
    assert [
        ThreatModel().letter,
        ThreatModel(auxiliary_data=True).letter,
        ThreatModel(labels=True).letter,
    ] == ["C", "D", "E"]


def test_the_true_offset_lies_within_the_stated_uncertainty_whatever_the_asymmetry() -> None:
    true_offset_ns = 5_000_000
    for there_ns, back_ns in ((1000, 1000), (10, 5000), (9000, 0)):
        estimate = ClockOffset.from_echo(
            sent_ns=0, peer_ns=there_ns + true_offset_ns, received_ns=there_ns + back_ns
        )
        assert abs(estimate.offset_s - true_offset_ns * 1e-9) <= estimate.uncertainty_s + 1e-15


def reading(**changes: object) -> EnergyReading:
    values = {
        "energy_j": 2.0,
        "uncertainty_j": 0.1,
        "duration_s": 1.0,
        "rail": "package-0",
        "boundary": Boundary.CPU_PACKAGE,
        "method": "counter",
        "coverage": 1.0,
        "n_samples": 3,
        "longest_gap_s": 0.1,
        "meter": "rapl",
    }
    return EnergyReading(**{**values, **changes})  # type: ignore[arg-type]


def test_energies_of_different_boundaries_never_add() -> None:
    total = reading().plus(reading(energy_j=3.0, coverage=0.5, duration_s=3.0, flags=("gap",)))
    assert (total.energy_j, total.duration_s, total.flags) == (5.0, 4.0, ("gap",))
    assert total.coverage == pytest.approx((1.0 + 1.5) / 4.0)
    for other in ({"boundary": Boundary.WALL_AC}, {"rail": "dram"}, {"meter": "perf"}):
        with pytest.raises(MeterError, match="cannot add"):
            reading().plus(reading(**other))
    one = ModelledEnergy(energy_j=1, low_j=0.5, high_j=2, model="a", inputs="1 CPU-s")
    assert one.plus(one).high_j == 4
    with pytest.raises(MeterError):
        one.plus(dataclasses.replace(one, model="b"))
