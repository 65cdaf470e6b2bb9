"""How much a round costs beside bare grpcio and Flower, on the same machine, in the same run.

    python benchmarks/federation.py [--quick] [--flower-python VENV/bin/python]

Three questions:

* an empty round: a 4 kB model, two clients on loopback, mutual TLS, admission and journal on,
  beside three kinds of bare round (see `benchmarks/bare.py`), each without and with mutual TLS;
* an update of 10 MB and 100 MB, from its first byte to the acknowledgement, beside the same bytes
  in a bare client stream of 1 MiB chunks, without and with mutual TLS;
* folding 50 updates of a million parameters: time, and memory beside the size of the model.

Ours and the peers take turns, and every duration is a median. The ratios are against plain text,
the harder comparison, unless their name says tls. Ends with one line `RESULT key=value ...`;
docs/benchmarks.md explains every key.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import flower
from benchmarks.bare import CLIENTS, SMALL_VALUES, BareServer
from benchmarks.cluster import run_cluster
from benchmarks.processes import finish, start
from testbed.certs import make_certificates

__all__ = ["main"]

ROUND_LIMIT = 5.0  # times a bare bidirectional round
ROUND_LIMIT_MS = 20.0  # on an idle machine
UPLOAD_LIMIT = 2.0  # times a bare transfer in plain text
MILLION = 1_000_000
STRATEGIES = ("fedavg", "median", "trimmed-mean", "krum")

Results = dict[str, float]


def main() -> None:
    """Measure, print, and end with the RESULT line."""
    args = _parser().parse_args()
    print(f"load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary).resolve()
        certs = folder / "certs"
        make_certificates(certs, client_ids=list(CLIENTS))
        results = measure_rounds(folder, certs, turns=2 if args.quick else 7)
        for megabytes in (10,) if args.quick else (10, 100):
            results |= measure_uploads(
                folder, certs, megabytes=megabytes, n=5 if args.quick else 15
            )
        n_updates = 10 if args.quick else 50
        results |= measure_folds(n_updates=n_updates)
        results |= measure_flower(args.flower_python, folder, n_updates=n_updates)
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")
    print("RESULT " + " ".join(f"{key}={value:.4g}" for key, value in results.items()))


def measure_rounds(folder: Path, certs: Path, *, turns: int, n: int = 100) -> Results:
    """An empty round of ours and every kind of bare round, in turns of `n` rounds each."""
    durations_s: dict[str, list[float]] = {}
    with ExitStack() as stack:
        kinds = {
            f"bare_{name}{suffix}": (
                stack.enter_context(BareServer(server, certs=secured)),
                calls,
            )
            for name, server, calls in (
                ("threads", "threads", "stream"),
                ("asyncio", "asyncio", "stream"),
                ("calls", "asyncio", "calls"),
            )
            for suffix, secured in (("", None), ("_tls", certs))
        }
        for turn in range(turns):
            for kind, (server, calls) in kinds.items():
                durations_s.setdefault(kind, []).extend(server.rounds(calls, n=n))
            seen = run_cluster(
                folder / f"rounds-{turn}",
                certs,
                n_values=SMALL_VALUES,
                n_clients=len(CLIENTS),
                n_rounds=n,
            )
            ours_s = [end - begin for begin, end in itertools.pairwise(seen[0].starts_s)]
            durations_s.setdefault("ours", []).extend(ours_s)
    found_ms = {kind: _median_ms(values) for kind, values in durations_s.items()}
    ours_ms = found_ms.pop("ours")
    print(
        f"empty round: {ours_ms:.2f} ms; issue's limit on an idle machine about "
        f"{ROUND_LIMIT_MS:.0f} ms: {_verdict(ours_ms, ROUND_LIMIT_MS)}"
    )
    results = {"round_ms": ours_ms}
    for kind, bare_ms in found_ms.items():
        ratio = ours_ms / bare_ms
        results |= {f"round_{kind}_ms": bare_ms, f"round_{kind}_ratio": ratio}
        print(
            f"    {ratio:5.2f} x {_NAMES[kind]} ({bare_ms:.2f} ms); "
            f"limit {ROUND_LIMIT:g} x: {_verdict(ratio, ROUND_LIMIT)}"
        )
    return results


_NAMES = {
    "bare_threads": "a bare bidirectional stream, synchronous server",
    "bare_threads_tls": "the same with mutual TLS",
    "bare_asyncio": "a bare bidirectional stream, asyncio server",
    "bare_asyncio_tls": "the same with mutual TLS",
    "bare_calls": "our calls bare: push, answer in a client stream, asyncio server",
    "bare_calls_tls": "the same with mutual TLS",
}


def measure_uploads(folder: Path, certs: Path, *, megabytes: int, n: int) -> Results:
    """`n` updates of one client: bare, bare with TLS, ours, bare, bare with TLS, ours ..."""
    with BareServer("asyncio") as plain, BareServer("asyncio", certs=certs) as tls:
        seen = run_cluster(
            folder / f"upload-{megabytes}",
            certs,
            n_values=megabytes * MILLION // 4,
            n_clients=1,
            n_rounds=n,
            bare_address=plain.address,
            bare_tls_address=tls.address,
        )[0]
    ours_ms, bare_ms = _median_ms(seen.uploads_s), _median_ms(seen.bare_s)
    tls_ms, hash_ms = _median_ms(seen.bare_tls_s), _median_ms(seen.hashes_s)
    ratio = ours_ms / bare_ms
    print(
        f"{megabytes} MB update: {ours_ms:.0f} ms, {ratio:.2f} x bare ({bare_ms:.0f} ms); "
        f"limit {UPLOAD_LIMIT:g} x: {_verdict(ratio, UPLOAD_LIMIT)}\n"
        f"    {ours_ms / tls_ms:.2f} x bare with mutual TLS ({tls_ms:.0f} ms); "
        f"{(ours_ms + hash_ms) / bare_ms:.2f} x bare with the client's SHA-256 ({hash_ms:.0f} ms)"
    )
    key = f"upload_{megabytes}mb"
    return {
        f"{key}_ms": ours_ms,
        f"{key}_bare_ms": bare_ms,
        f"{key}_bare_tls_ms": tls_ms,
        f"{key}_hash_ms": hash_ms,
        f"{key}_ratio": ratio,
        f"{key}_tls_ratio": ours_ms / tls_ms,
    }


def measure_folds(*, n_updates: int) -> Results:
    """Every strategy over the same updates."""
    results: Results = {}
    for strategy in STRATEGIES:
        found = finish(start("benchmarks.fold", strategy, n_updates=n_updates, n_values=MILLION))
        results |= {f"fold_{strategy.replace('-', '_')}_{k}": v for k, v in found.items()}
        print(
            f"fold {n_updates} x 1 M with {strategy}: {found['ms']:.0f} ms, "
            f"{found['models']:.1f} models of memory"
        )
    return results


def measure_flower(python: Path | None, folder: Path, *, n_updates: int) -> Results:
    """Flower's mean of as many updates, and its empty round."""
    if python is None:
        print("Flower: not run (give the Python of an environment with it: --flower-python)")
        return {}
    found = flower.fold(python, n_updates=n_updates, n_values=MILLION)
    print(
        f"Flower {found['version']} folds {n_updates} x 1 M, held in memory, in "
        f"{found['ms']:.0f} ms with {found['models']:.1f} models of memory "
        f"({found['held_models']:.1f} are the replies)"
    )
    results = {"flower_fold_ms": found["ms"], "flower_fold_models": found["models"]}
    try:
        durations_s = flower.rounds(python, folder / "flower")
    except flower.FlowerFailedError as error:
        print(f"Flower's empty round: not measured ({error})")
        return results
    results["flower_round_ms"] = _median_ms(durations_s)
    print(
        f"Flower's empty round: {results['flower_round_ms']:.0f} ms "
        f"(median of {len(durations_s)}, two nodes, insecure)"
    )
    return results


def _median_ms(durations_s: list[float]) -> float:
    return 1e3 * statistics.median(durations_s)


def _verdict(value: float, limit: float) -> str:
    return "met" if value <= limit else "NOT met"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Rounds, uploads and folds beside their peers.")
    parser.add_argument("--quick", action="store_true", help="fewer turns and updates, no 100 MB")
    parser.add_argument("--folder", type=Path, help="where to work (a real disk, not tmpfs)")
    parser.add_argument(
        "--flower-python", type=lambda word: Path(word).absolute(), help="of a venv with Flower"
    )
    return parser


if __name__ == "__main__":
    main()
