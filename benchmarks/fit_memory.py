"""A strong head on more rows than its memory budget, beside the same fit in memory.

    python benchmarks/fit_memory.py --gigabytes 8 --budget 2 --runs 3

Rows are drawn, `--width` columns in float16, and made block by block in both processes alike. Each fit is a process of
its own; both heads must have the same bytes. Printed: seconds of an epoch, and the peak of each process's memory.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from pipeline.io.digests import sha256_bytes

BLOCK = 8192


def draw_blocks(n_rows: int, width: int) -> Iterator[np.ndarray]:
    """Yield drawn rows, a block at a time: the same numbers, in one of a few scales."""
    base = np.random.default_rng(0).random((BLOCK, width), np.float32)
    scaled = [(base * factor).astype(np.float16) for factor in (1, 2, 3)]
    for number, start in enumerate(range(0, n_rows, BLOCK)):
        yield scaled[number % len(scaled)][: min(BLOCK, n_rows - start)]


def fit(gigabytes: float, width: int, hidden: int, budget: float, scratch: Path) -> None:
    """Fit a head for two epochs, and print what it took; without a budget in memory."""
    from pipeline.head.fit_rows import MemoryBudget
    from pipeline.head.joint_fit import JointFit
    from pipeline.head.networks import HeadNetwork
    from pipeline.head.settings import HeadSettings
    from pipeline.io.memory import peak_memory

    n_rows = int(gigabytes * 2**30 / (2 * width))
    memory = MemoryBudget(int(budget * 2**30) if budget else 2**50, scratch)
    started = time.perf_counter()
    rows = memory.hold(n_rows, width, draw_blocks(n_rows, width))
    held = time.perf_counter() - started
    settings = HeadSettings(hidden=(hidden,) if hidden else (), max_epochs=(2, 0, 0))
    network = HeadNetwork(width, 20, settings, "softmax")
    joint = JointFit(0)
    joint.add(network, settings)
    started = time.perf_counter()
    joint.run(rows, np.random.default_rng(1).integers(0, 21, n_rows))
    seconds = (time.perf_counter() - started) / 2
    weights = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
    peak = peak_memory() / 2**30
    facts = {"where": type(rows).__name__, "rows": n_rows, "hold_s": held, "epoch_s": seconds, "peak_gib": peak}
    print(json.dumps({**facts, "sha256": sha256_bytes(weights)}))


@click.command()
@click.option("--gigabytes", default=8.0)
@click.option("--budget", default=2.0, help="GiB of the process whose rows lie in a file.")
@click.option("--width", default=4096)
@click.option("--hidden", default=0, help="Units of the hidden layer; 0, the fastest head, for none.")
@click.option("--runs", default=3)
@click.option("--scratch", default="build", type=click.Path(path_type=Path))
@click.option("--one", type=float, hidden=True)
def main(gigabytes: float, budget: float, width: int, hidden: int, runs: int, scratch: Path, one: float | None) -> None:
    """Measure a fit beyond its memory beside one within."""
    if one is not None:
        fit(gigabytes, width, hidden, one, scratch)
        return
    shape = ["--gigabytes", str(gigabytes), "--width", str(width), "--hidden", str(hidden), "--scratch", str(scratch)]
    ratios = []
    for _ in range(runs):
        sides = []
        for allowed in (0.0, budget):
            command = [sys.executable, __file__, *shape, "--one", str(allowed)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            sides.append(json.loads(done.stdout))
            click.echo(json.dumps(sides[-1]))
        assert sides[0]["sha256"] == sides[1]["sha256"], "another head"
        ratios.append(sides[0]["epoch_s"] / sides[1]["epoch_s"])
    click.echo(f"speed compared with rows in memory: {statistics.median(ratios):.2f} (median of {runs})")


if __name__ == "__main__":
    main()
