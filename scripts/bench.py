#!/usr/bin/env python3
"""Measures modpdb beside its peers, prints a table and writes the figures to a JSON file.

The two sides of a row are measured in one run, in turn: ratios hold on any machine, seconds on this
one. Ends with status 1 if a limit is exceeded or a row cannot be measured. A new row is an entry of
ROWS, with a function from the number of repetitions to Measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.first_prompt import first_prompt
from benchmarks.measuring import Result, Row, run
from benchmarks.module_trees import llama_against_torchinfo, mixture_of_experts

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("modpdb", "torch", "transformers", "pdbpp", "prompt_toolkit", "rich", "torchinfo")
ROWS = (
    Row(
        "first-prompt",
        "from the start to the first prompt on a one-line script, in a pipe",
        "pdbpp",
        1.6,
        partial(first_prompt, terminal=False),
    ),
    Row(
        "first-prompt-tty",
        "the same at a terminal",
        "pdbpp",
        1.6,
        partial(first_prompt, terminal=True),
    ),
    Row(
        "modules-llama",
        "modules computed and rendered: Llama 405B, 126 layers",
        "torchinfo",
        0.5,
        llama_against_torchinfo,
    ),
    Row(
        "modules-moe",
        "modules computed and rendered: mixture of experts, 60,440 modules, folded",
        None,
        1.0,
        mixture_of_experts,
        repetitions=5,
    ),
)


def say(message: str) -> None:
    print(f"bench: {message}", file=sys.stderr, flush=True)


# -- the table --------------------------------------------------------------------------------


def milliseconds(samples: Sequence[float]) -> str:
    """The median, and from the least to the greatest."""
    low, high = (f"{1000 * each:,.0f}" for each in (min(samples), max(samples)))
    return f"{1000 * median(samples):,.0f} ms ({low}…{high})"


def cells(result: Result) -> tuple[str, ...]:
    """A row of the table, under HEADING."""
    row, measured = result.row, result.measured
    unit = "×" if row.against else "s"
    limit = "" if row.limit is None else f"{row.limit:g} {unit}"
    if measured is None:
        return row.name, "", "", "", limit, result.verdict
    peer = f"{row.against} {milliseconds(measured.theirs)}" if row.against else ""
    value = f"{measured.value:.2f} {unit}"
    return row.name, milliseconds(measured.ours), peer, value, limit, result.verdict


HEADING = ("", "modpdb", "against", "value", "limit", "")


def table(results: Sequence[Result]) -> str:
    """The figures, then what each row means and why one could not be measured."""
    lines = [HEADING, *(cells(result) for result in results)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    text.append("median (min…max) of the repetitions; value: the ratio of the medians, or seconds")
    width = max(len(result.row.name) for result in results)
    text += [f"{result.row.name:<{width}}  {result.row.what}" for result in results]
    text += [f"{result.row.name}: {result.problem}" for result in results if result.problem]
    return "\n".join(text)


# -- the file ---------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "platform": platform.platform(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := installed(name))},
    }


def installed(package: str) -> str | None:
    """Its version; None where it is not here, as a peer that no chosen row needs."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name; its architecture where the system does not tell the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def seconds(samples: Sequence[float]) -> dict[str, Any] | None:
    if not samples:
        return None
    return {
        "median": median(samples),
        "min": min(samples),
        "max": max(samples),
        "samples": list(samples),
    }


def as_json(result: Result) -> dict[str, Any]:
    """A row with every figure: seconds of both sides; value and limit as in the table."""
    row, measured = result.row, result.measured
    sides = {"modpdb": seconds(measured.ours), "peer": seconds(measured.theirs)} if measured else {}
    return {
        "name": row.name,
        "what": row.what,
        "against": row.against,
        "unit": "ratio" if row.against else "s",
        "value": measured.value if measured else None,
        "limit": row.limit,
        "verdict": result.verdict,
        "problem": result.problem,
        "seconds": sides,
    }


def report(results: Sequence[Result], load: float) -> dict[str, Any]:
    """All of the file; `load` is the machine's load average before the rows were measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load_before": load,
        "rows": [as_json(result) for result in results],
    }


# -- the command ------------------------------------------------------------------------------


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scripts/bench", description="Measures modpdb beside its peers."
    )
    parser.add_argument("names", nargs="*", metavar="ROW", help="rows to measure (all)")
    parser.add_argument("--list", action="store_true", help="list the rows and end")
    parser.add_argument("--repetitions", type=positive, metavar="N", help="of each row (its own)")
    parser.add_argument("--json", type=Path, default=ROOT / "bench.json", help="(bench.json)")
    args = parser.parse_args()
    known = [row.name for row in ROWS]
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"no row {unknown[0]}; there is: {', '.join(known)}")
    return args


def main() -> int:
    args = parsed()
    rows = [row for row in ROWS if not args.names or row.name in args.names]
    if args.list:
        print("\n".join(f"{row.name:<18}{row.what}" for row in rows))
        return 0
    load = os.getloadavg()[0]
    if load > (os.cpu_count() or 1) / 2:
        say(f"the machine is busy (load {load:.1f}): seconds are too high, ratios less certain")
    results = []
    for row in rows:
        say(f"{row.name}: {row.what}")
        results.append(run(row, args.repetitions))
    print(table(results))
    args.json.write_text(json.dumps(report(results, load), indent=2) + "\n", encoding="utf-8")
    say(f"every figure is in {args.json}")
    return int(any(result.verdict in ("OVER", "failed") for result in results))


if __name__ == "__main__":
    sys.exit(main())
