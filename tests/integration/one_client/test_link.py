"""How a client keeps its connection, and what it does when it breaks or its work is overtaken."""

from __future__ import annotations

import threading

import pytest

from fedcore.errors import HandshakeError, Refusal, UpdateError
from fedcore.plan import RoundPlan
from fedcore.types import TensorMap
from fedcore.wire.messages import (
    UploadHeader,
)
from protos.v1 import rounds_pb2

from .conftest import WAIT_S, LinearBackend, Site, plan, wait_until


@pytest.mark.parametrize("how", ["kill", "hang up", "come back later"])
def test_a_client_comes_back_wherever_the_aggregator_does(site: Site, how: str) -> None:
    site.aggregator.push(plan(round=0))
    with site.running_client():
        site.report()
        if how == "kill":
            site.kill_server()
            site.serve()  # on another port
        elif how == "hang up":
            site.aggregator.outbox.put(None)
        else:
            farewell = rounds_pb2.Farewell(reason="restarting", finished=False)
            site.aggregator.outbox.put(rounds_pb2.ServerMessage(farewell=farewell))
        wait_until(lambda: len(site.aggregator.hellos) == 2)
        site.aggregator.push(plan(round=1))
        site.report(round=1)
    assert [header.ticket.round for header, _ in site.aggregator.uploads] == [0, 1]


def test_an_upload_survives_the_death_of_the_aggregator(site: Site) -> None:
    arrived, released = threading.Event(), threading.Event()
    headers: list[UploadHeader] = []

    def hang(header: UploadHeader) -> None:
        headers.append(header)
        arrived.set()
        released.wait(WAIT_S)

    site.aggregator.refuse_upload = hang
    site.aggregator.push(plan())
    with site.running_client():
        assert arrived.wait(WAIT_S)
        site.kill_server()
        site.aggregator.refuse_upload = headers.append
        released.set()
        site.serve()
        site.report()
    first, second = headers
    assert first.sha256 == second.sha256


def test_a_refused_update_is_one_line_and_the_next_round_goes_on(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(header: UploadHeader) -> None:
        if header.ticket.round == 0:
            raise UpdateError(Refusal.STALE_ROUND, "this aggregator is picky")

    site.aggregator.refuse_upload = refuse
    site.aggregator.push(plan(round=0))
    with site.running_client():
        wait_until(lambda: "refused" in caplog.text)
        site.aggregator.push(plan(round=1))
        site.report(round=1)
    lines = [r for r in caplog.records if r.name == "edge_client.client" and r.msg == "refused"]
    assert [(r.round, r.why) for r in lines] == [(0, "stale-round: this aggregator is picky")]


def test_a_newer_order_makes_an_unfinished_one_irrelevant(site: Site) -> None:
    class Slow(LinearBackend):
        """Trains round 0 for as long as anybody could want the result."""

        def load(self, plan: RoundPlan, weights: TensorMap, **fetching) -> None:
            super().load(plan, weights, **fetching)
            self.round = plan.round

        def train(self, inputs, labels, *, noise):
            if self.round == 0:
                site.aggregator.push(plan(round=1))
                wait_until(lambda: client.link._order.plan.round == 1)
            return super().train(inputs, labels, noise=noise)

    with site.running_client(backend=Slow()) as client:
        site.aggregator.push(plan(round=0))
        site.report(round=1)
    assert [header.ticket.round for header, _ in site.aggregator.uploads] == [1]


def test_heartbeats_go_on_while_the_client_trains(site: Site) -> None:
    class Patient(LinearBackend):
        def train(self, inputs, labels, *, noise):
            seen = site.aggregator.beats
            wait_until(lambda: site.aggregator.beats >= seen + 3)
            return super().train(inputs, labels, noise=noise)

    site.aggregator.heartbeat_s = 0.02
    site.aggregator.push(plan())
    with site.running_client(backend=Patient()):
        site.report()


def test_a_refusal_at_the_door_ends_the_client_with_its_words(site: Site) -> None:
    site.aggregator.refused_joins.append("install leakwatt 7")
    with site.client() as client, pytest.raises(HandshakeError, match="install leakwatt 7"):
        client.run()
