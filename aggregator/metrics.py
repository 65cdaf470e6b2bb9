"""The aggregator's numbers for Prometheus, read from its store at every scrape."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from aggregator.records import StoreReader
from fedcore.prometheus import Family, PhaseTotals

__all__ = ["families_of"]


def families_of(store_file: Path, run_ids: tuple[str, ...]) -> list[Family]:
    """What the runs came to so far.

    Args:
        store_file: of the run folder.
        run_ids: of its arms.
    """
    rounds: dict[tuple[str, ...], float] = {}
    updates: dict[tuple[str, ...], float] = defaultdict(float)
    received: dict[tuple[str, ...], float] = defaultdict(float)
    refused: dict[tuple[str, ...], float] = defaultdict(float)
    phases = PhaseTotals()
    with StoreReader(store_file) as store:
        for run_id in run_ids:
            rounds[(run_id,)] = len(store.rounds(run_id))
            for update in store.updates(run_id):
                key = run_id, update.ticket.client_id
                updates[key] += 1
                received[key] += update.n_bytes
            for report in store.reports(run_id):
                phases.add(report)
        for row in store.audit():
            refused[(row.reason,)] += 1
    by = ("run", "client")
    return [
        ("rounds_closed", "rounds that are folded", ("run",), rounds),
        ("updates_accepted", "updates in the journal", by, updates),
        ("update_bytes", "bytes of accepted updates", by, received),
        ("refusals", "updates and calls that were refused", ("reason",), refused),
        *phases.families(),
    ]
