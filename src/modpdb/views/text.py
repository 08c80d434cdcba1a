"""Words and numbers as every view prints them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def printable(text: str) -> str:
    """*text* with every control, format and lone surrogate character escaped.

    Names come out of checkpoints, and a checkpoint may hold escape sequences.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or unicodedata.category(char) == "Zs" else _escaped(char)
        for char in text
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def count(number: int) -> str:
    """A count with three digits and its scale: 42, 1,024, 148.3 M, 6.74 G."""
    if number < 100_000:
        return f"{number:,}"
    for scale, suffix in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= scale:
            return f"{_digits(number / scale)} {suffix}"
    raise AssertionError(number)


def size(nbytes: int) -> str:
    """Memory in binary units: 512 bytes, 4.0 KiB, 282.9 MiB."""
    if nbytes < 1024:
        return f"{nbytes} bytes" if nbytes != 1 else "1 byte"
    power = min((nbytes.bit_length() - 1) // 10, len(_UNITS) - 1)
    return f"{_digits(nbytes / 1024**power)} {_UNITS[power]}"


def memory(nbytes: int) -> str:
    """Memory in binary units, and to the byte: 482.6 KiB (494,208 bytes)."""
    return size(nbytes) if nbytes < 1024 else f"{size(nbytes)} ({nbytes:,} bytes)"


def duration(seconds: float) -> str:
    """A time in the script's run: 0.04 s, 12.31 s, 4:07 min, 1:02:05 h."""
    if seconds < 100:
        return f"{seconds:.2f} s"
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02} h" if hours else f"{minutes}:{whole:02} min"


def _digits(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def percent(share: float) -> str:
    """A share of one: 12.5%; never 0.0% of something, nor 100.0% of less than all."""
    if 0 < share < 0.001:
        return "<0.1%"
    return ">99.9%" if 0.999 < share < 1 else f"{share:.1%}"


def shape(dims: Sequence[object] | None) -> str:
    """A shape as torch writes it, [2, 3]; of a scalar []; unknown ?."""
    return "?" if dims is None else "[" + ", ".join(str(dim) for dim in dims) + "]"


def numbers(values: Iterable[int]) -> str:
    """Block numbers folded: {0…25}, {0, 5…7}, {1, 3…25 by 2}; a single one bare: 3."""
    rest = sorted(set(values))
    if len(rest) == 1:
        return str(rest[0])
    parts: list[str] = []
    while rest:
        step = rest[1] - rest[0] if len(rest) > 1 else 1
        end = 1
        while end < len(rest) and rest[end] - rest[end - 1] == step:
            end += 1
        if end >= 3 and step > 1:
            parts.append(f"{rest[0]}, {rest[1]}…{rest[end - 1]} by {step}")
        elif end >= 2 and step == 1:
            parts.append(f"{rest[0]}…{rest[end - 1]}")
        else:
            end = 1
            parts.append(str(rest[0]))
        rest = rest[end:]
    return "{" + ", ".join(parts) + "}"


def plural(number: int, noun: str) -> str:
    """1 tensor, 2 tensors, 3 entries."""
    if number == 1:
        return f"1 {noun}"
    many = re.sub(r"y$", "ies", noun) if re.search(r"[^aeiou]y$", noun) else noun + "s"
    return f"{number:,} {many}"
