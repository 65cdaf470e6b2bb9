"""Exposure of trained networks without an attack: its values, and what it costs per update.

    python -m benchmarks.exposure --root DATA --cache NETS conv-relu conv-snn-t4

The first test examples, one per update, at each stage of training. Nothing was tuned. Ends with one
line `RESULT key=value ...` per network and stage: means over updates, the median time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import fmean, median

import torch

from benchmarks.data_sets import parts_of
from benchmarks.updates import gradient_of_batch, observation
from benchmarks.victims import VICTIMS, Victim, trained_victim
from fedcore.data.datasets import Examples
from fedcore.data.encodings import encode
from fedcore.plan import Training
from fedcore.seeds import stream
from fedcore.types import Missing, TensorMap
from testbed.exposing import N_DIRECTIONS
from testbed.exposure import Exposure, of_update
from testbed.jacobian import Spectrum, input_spectrum

__all__ = ["main"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=sorted(VICTIMS))
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--cache", type=Path, required=True, help="trained networks are kept here")
    parser.add_argument("--updates", type=int, default=16)
    parser.add_argument("--directions", type=int, default=N_DIRECTIONS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.names:
        examples = parts_of(VICTIMS[name].data, args.root).victims
        stages = trained_victim(name, root=args.root, cache=args.cache)
        for stage, weights in stages.items():
            rows = [
                _measure(VICTIMS[name], weights, examples, index=i, n_directions=args.directions)
                for i in range(args.updates)
            ]
            _print(name, stage, rows)


def _measure(
    victim: Victim, weights: TensorMap, examples: Examples, *, index: int, n_directions: int
) -> tuple[Exposure, Spectrum | Missing, float, float]:
    """One update's score from the bytes and with the truth, and the seconds that each took."""
    inputs, labels = examples.inputs[index : index + 1], examples.labels[index : index + 1]
    train = encode(victim.encoding, inputs, stream(0, "exposure", "encode", index))
    sent = gradient_of_batch(victim.model, weights, train, labels)
    training = Training(batch_size=1)
    seen = observation(victim.model, victim.encoding, weights, sent, training=training, round=index)
    start_s = time.perf_counter()
    row = of_update(seen)
    between_s = time.perf_counter()
    spectrum = input_spectrum(
        seen.plan,
        weights,
        inputs=inputs,
        encoded_input=train,
        labels=labels,
        n_directions=n_directions,
        rng=stream(0, "exposure", "directions", index),
    )
    return row, spectrum, between_s - start_s, time.perf_counter() - between_s


def _print(
    name: str, stage: str, rows: list[tuple[Exposure, Spectrum | Missing, float, float]]
) -> None:
    spectra = [spectrum for _, spectrum, _, _ in rows if isinstance(spectrum, Spectrum)]
    blind = sum(isinstance(s.inverse_information, Missing) for s in spectra)
    print(
        f"RESULT net={name} stage={stage} updates={len(rows)}"
        f" rank={fmean(row.first_layer_rank for row, *_ in rows):.1f}/{rows[0][0].rank_limit}"
        f" peelable={sum(row.is_peelable is True for row, *_ in rows)}"
        f" zeros={fmean(row.zero_share for row, *_ in rows):.3f}"
        f" effective_rank={fmean(s.effective_rank for s in spectra):.1f}"
        f"/{len(spectra[0].singular_values)}"
        f" largest={fmean(s.singular_values[0] for s in spectra):.3g}"
        f" median={median(s.singular_values[len(s.singular_values) // 2] for s in spectra):.3g}"
        f" blind={blind}"
        f" bytes_ms={1000 * median(t for *_, t, _ in rows):.2f}"
        f" truth_ms={1000 * median(t for *_, t in rows):.0f}"
    )


if __name__ == "__main__":
    main()
