#!/usr/bin/env python3
"""Measures modpdb beside its peers, prints a table and writes the figures to a JSON file.

The two sides of a row are measured in one run, in turn: ratios hold on any machine, seconds on this
one. Rows that need no torch are measured on every Python of this machine, in environments that are
made for them; MODPDB_PYTHONS names Pythons that are not on PATH. Ends with status 1 if a limit is
exceeded or a row fails. A new row is an entry of ROWS, with a function from the number of
repetitions to Measured.
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

from benchmarks.checkpoints import checkpoint_of_shards
from benchmarks.conversions import (
    conversion,
    conversion_with_preset,
    looking_ahead,
)
from benchmarks.first_prompt import first_prompt
from benchmarks.forward_passes import forward_checked, forward_recorded
from benchmarks.measuring import Measured, Result, Row, run
from benchmarks.module_trees import llama_against_torchinfo, mixture_of_experts
from benchmarks.native_speed import false_condition, imports, loop, patching, tracepoint
from benchmarks.pythons import on_each, one_of_each_minor
from benchmarks.tensors import statistics_against_lovely, statistics_memory
from benchmarks.verifying import verify_against_loading, verify_memory

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    *("modpdb", "torch", "transformers", "pdbpp", "prompt_toolkit", "rich"),
    *("torchinfo", "lovely-tensors", "debugpy"),
)
ONLY_311, FROM_312 = range(11, 12), range(12, 100)
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
    Row(
        "record",
        "a forward pass of a 148M Gemma 3, 128 tokens, every module recorded",
        "plain",
        1.1,
        forward_recorded,
    ),
    Row(
        "break-nan",
        "a forward pass of a 148M Gemma 3, 128 tokens, every module looked at by break-nan",
        "plain",
        1.05,
        forward_checked,
    ),
    Row(
        "ckpt",
        "ckpt of 200 shards, 60,000 tensors, folded and rendered",
        "json",
        1.5,
        checkpoint_of_shards,
        repetitions=7,
    ),
    Row(
        "statistics",
        "statistics of 64M bf16 values, what float16 loses and histogram included",
        "lovely_tensors",
        0.1,
        statistics_against_lovely,
        timeout=240.0,
    ),
    Row(
        "statistics-memory",
        "what `tensor` of 64M bf16 values adds to the peak memory of a process",
        None,
        64.0,
        statistics_memory,
        repetitions=3,
        unit="MiB",
    ),
    Row(
        "verify",
        "every tensor of a 148M Gemma 3 in f16 related to its source, all values compared",
        "loading",
        1.0,
        verify_against_loading,
        repetitions=5,
        timeout=240.0,
    ),
    Row(
        "verify-memory",
        "what that adds to the peak memory of a process",
        None,
        1024.0,
        verify_memory,
        repetitions=3,
        timeout=240.0,
        unit="MiB",
    ),
    Row(
        "conversion",
        "a whole 148M Gemma 3 conversion, a never-true condition in map_tensor_name",
        "plain",
        1.03,
        conversion,
        repetitions=11,
        timeout=600.0,
    ),
    Row(
        "conversion-preset",
        "the same with the preset's stages watched and provenance collected",
        "plain",
        1.03,
        conversion_with_preset,
        repetitions=11,
        timeout=600.0,
    ),
    Row(
        "ahead",
        "ahead, the first time, at stage tensors of a 148M Gemma 3 conversion",
        None,
        2.0,
        looking_ahead,
        repetitions=5,
        timeout=240.0,
    ),
    Row(
        "loop",
        "a loop of 10 million rounds, timed by itself, a breakpoint in another function",
        "plain",
        1.02,
        partial(loop, name="loop", rounds=10_000_000),
        everywhere=True,
    ),
    Row(
        "calls",
        "a loop that calls a function a million times, a breakpoint in a third function",
        "plain",
        1.02,
        partial(loop, name="calls", rounds=1_000_000),
        everywhere=True,
    ),
    Row(
        "false-condition",
        "one hit of a breakpoint whose condition is false",
        "pdb",
        0.1,
        false_condition,
        repetitions=7,
        everywhere=True,
    ),
    Row(
        "patching",
        "patching a function of 360 instructions",
        None,
        0.003,
        patching,
        minors=ONLY_311,
    ),
    Row(
        "imports",
        "importing 200 modules of 500 lines with 1,000 breakpoints in them",
        "plain",
        3.0,
        imports,
        repetitions=5,
        everywhere=True,
        minors=FROM_312,
    ),
    Row(
        "tracepoint",
        "one event of a tracepoint that prints a constant, the printing included",
        None,
        5e-6,
        tracepoint,
        everywhere=True,
    ),
)
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def say(message: str) -> None:
    print(f"bench: {message}", file=sys.stderr, flush=True)


# -- the table --------------------------------------------------------------------------------


def unit_of(seconds: float) -> tuple[float, str]:
    """The unit in which they are read best: its seconds and its name."""
    return next((unit for unit in UNITS if seconds >= unit[0]), UNITS[-1])


def times(samples: Sequence[float], measured_in: str = "s") -> str:
    """The median, and from the least to the greatest."""
    scale, unit = unit_of(median(samples)) if measured_in == "s" else (1.0, measured_in)
    digits = 2 if unit == "s" or median(samples) < 10 * scale else 0
    middle, low, high = (
        f"{each / scale:,.{digits}f}" for each in (median(samples), min(samples), max(samples))
    )
    return f"{middle} {unit} ({low}…{high})"


def cells(result: Result) -> tuple[str, ...]:
    """A row of the table, under HEADING."""
    row, measured = result.row, result.measured
    at_most = "" if row.limit is None else f"{row.limit:g}"
    scale, unit = 1.0, "×" if row.against else row.unit
    if not row.against and row.unit == "s":
        scale, unit = unit_of(row.limit or (measured.value if measured else 0.0))
        at_most = "" if row.limit is None else f"{row.limit / scale:g}"
    limit = at_most and f"{at_most} {unit}"
    if measured is None:
        return row.name, "", "", "", limit, result.verdict
    peer = f"{row.against} {times(measured.theirs)}" if row.against else ""
    # A digit more than the limit has: what is just over it must not look as if it were not.
    digits = max(2, len(at_most.partition(".")[2]) + 1)
    value = f"{measured.value / scale:.{digits}f} {unit}"
    return row.name, times(measured.ours, row.unit), peer, value, limit, result.verdict


HEADING = ("", "modpdb", "against", "value", "limit", "")


def table(results: Sequence[Result]) -> str:
    """The figures, then what each row means and why one could not be measured."""
    text = columns([HEADING, *(cells(result) for result in results)])
    text.append("median (min…max) of the repetitions; value: the ratio of the medians, or time")
    text += beside(results)
    meanings = {result.row.name.partition(" ")[0]: result.row.what for result in results}
    text += columns([*meanings.items()])
    text += [f"{result.row.name}: {result.problem}" for result in results if result.problem]
    return "\n".join(text)


def beside(results: Sequence[Result]) -> list[str]:
    """What one would use instead, as multiples of the same; nothing where no row has any."""
    measured = [(each.row, each.measured) for each in results if each.measured]
    names = list(dict.fromkeys(name for _, figures in measured for name in figures.beside))
    if not names:
        return []
    lines = [("", "times", "modpdb", *names)]
    for row, figures in measured:
        if figures.beside:
            peer = row.against or ""
            samples = {"modpdb": figures.ours, peer: figures.theirs, **figures.beside}
            multiples = [multiple(figures, samples.get(name, ())) for name in ("modpdb", *names)]
            lines.append((row.name, peer, *multiples))
    return ["", *columns(lines), ""]


def multiple(measured: Measured, samples: Sequence[float]) -> str:
    if not samples:
        return ""
    value = measured.against(samples)
    return f"{value:.{2 if value < 10 else 0}f} ×"


def columns(lines: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


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


def conditions() -> str:
    """When and on what, for the head of the table."""
    on = f"{os.cpu_count()} × {processor()}, Python {platform.python_version()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {on}"


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
    """A row with every figure: seconds of all sides; value and limit as in the table."""
    row, measured = result.row, result.measured
    sides = {"modpdb": seconds(measured.ours), "peer": seconds(measured.theirs)} if measured else {}
    others = {name: seconds(each) for name, each in measured.beside.items()} if measured else {}
    return {
        "name": row.name,
        "what": row.what,
        "against": row.against,
        "unit": "ratio" if row.against else row.unit,
        "value": measured.value if measured else None,
        "limit": row.limit,
        "verdict": result.verdict,
        "problem": result.problem,
        "seconds": sides,
        "beside": others,
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
    parser.add_argument("--here", action="store_true", help="on this Python alone")
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
    search = not args.here and any(row.everywhere for row in rows)
    elsewhere = one_of_each_minor() if search else []
    results = []
    for each in [one for row in rows for one in on_each(row, elsewhere)]:
        say(f"{each.name}: {each.what}")
        results.append(run(each, args.repetitions))
    print(f"{conditions()}\n\n{table(results)}")
    args.json.write_text(json.dumps(report(results, load), indent=2) + "\n", encoding="utf-8")
    say(f"every figure is in {args.json}")
    return int(any(result.verdict in ("OVER", "failed") for result in results))


if __name__ == "__main__":
    sys.exit(main())
