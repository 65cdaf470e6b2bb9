"""Graphs that plans name, and the deployed forms of a network that a client runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from edge_client.artefacts import ArtefactCache
from fedcore.devices import Agreement, Deployment
from fedcore.energy import Phase
from fedcore.errors import UpdateError
from fedcore.types import Missing

from .conftest import LinearBackend, Site, plan, wait_until

GRAPH = b"a graph"
SHA256 = hashlib.sha256(GRAPH).hexdigest()


class Deploying(LinearBackend):
    """Its deployed form knows class 0 only."""

    deploys = True

    def profile(self, inputs: np.ndarray, labels: np.ndarray) -> tuple[Deployment, ...]:
        said = self._softmax(inputs.mean(axis=0).reshape(len(labels), -1)).argmax(axis=1)
        differing = int(np.count_nonzero(said))
        return (
            Deployment(
                form="class 0",
                n_correct=int(np.count_nonzero(labels == 0)),
                n_examples=len(labels),
                duration_s=0.5,
                exact=True,
                agreements=(Agreement(what="classes", n_compared=16, n_differing=differing),),
                operations=Missing(why="none are made"),
            ),
        )


def test_what_the_deployed_form_did_is_in_the_report_of_rounds_that_evaluate(site: Site) -> None:
    site.aggregator.push(plan(evaluate=True))
    with site.running_client(backend=Deploying()):
        evaluated = site.report()
        site.aggregator.push(plan(round=1))
        trained = site.report(round=1)
    phases = [record.phase for record in evaluated.phases]
    assert phases[phases.index(Phase.EVALUATE) + 1] is Phase.PROFILE
    (deployment,) = evaluated.surroundings.deployments
    assert deployment.n_examples == 16
    assert deployment.operations == Missing(why="none are made")
    assert deployment.contradictions == deployment.agreements  # seldom is everything class 0
    assert Phase.PROFILE not in [record.phase for record in trained.phases]
    assert not trained.surroundings.deployments


def test_graphs_are_downloaded_once(site: Site) -> None:
    site.aggregator.artefacts[SHA256] = GRAPH
    backend = LinearBackend()
    site.aggregator.push(plan(graphs={"training": SHA256}))
    with site.running_client(backend=backend):
        site.report()
        assert backend.graphs == {"training": GRAPH}
        del site.aggregator.artefacts[SHA256]
        site.aggregator.push(plan(round=1, graphs={"training": SHA256}))
        site.report(round=1)
    assert backend.graphs == {"training": GRAPH}


def test_a_graph_that_is_another_is_refused(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.aggregator.artefacts[SHA256] = GRAPH[:-1]
    site.aggregator.push(plan(graphs={"training": SHA256}))
    with site.running_client():
        wait_until(lambda: "refused" in caplog.text)
    assert not site.aggregator.uploads


def test_a_folder_keeps_artefacts_for_the_next_start(tmp_path: Path) -> None:
    calls = []

    def download(sha256: str) -> bytes:
        calls.append(sha256)
        return GRAPH

    for _ in range(2):
        assert ArtefactCache(tmp_path / "cache").get(SHA256, download) == GRAPH
    assert calls == [SHA256]
    (tmp_path / "cache" / SHA256).write_bytes(b"damaged")
    assert ArtefactCache(tmp_path / "cache").get(SHA256, download) == GRAPH
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_costs_a_download_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert ArtefactCache(tmp_path / "cache").get(SHA256, lambda _: GRAPH) == GRAPH
    assert "not cached" in caplog.text
    with pytest.raises(UpdateError, match="SHA-256"):
        ArtefactCache(None).get(SHA256, lambda _: b"another")
