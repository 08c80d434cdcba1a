"""Histogram and heat map of a tensor as a PNG, which needs no library but zlib.

PNG: https://www.w3.org/TR/png-3/ ; here 8 bits of red, green and blue, no filter.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from modpdb.probes.heat_map import HeatMap
from modpdb.probes.tensors import Statistics
from modpdb.views.tensor import number

_SIDE = 512  # pixels that the longer side of the heat map has, about
_HISTOGRAM = 120  # pixels of height
_GAP = 8
_WHITE, _BAR = (255, 255, 255), (70, 130, 90)

Pixel = tuple[int, int, int]


def picture(found: Statistics, heat: HeatMap) -> bytes:
    """A PNG: the histogram above, from least to greatest, and the heat map below."""
    limit = _limit(found)
    across, down = len(heat.cells[0]), len(heat.cells)
    scale_x, scale_y = max(1, _SIDE // across), max(1, _SIDE // down)
    if down == 1:
        scale_y = 64
    width = across * scale_x
    lines = [*_bars(found.histogram, width)]
    lines += [_solid(_WHITE, width)] * _GAP
    for row in heat.cells:
        line = b"".join(bytes(_color(value, limit)) * scale_x for value in row)
        lines += [line] * scale_y
    return _png(width, lines)


def caption(found: Statistics, heat: HeatMap) -> str:
    """What the picture shows, since it has no letters."""
    rows, columns = heat.shape
    across, down = len(heat.cells[0]), len(heat.cells)
    cell = (
        "a cell a value"
        if (rows, columns) == (down, across)
        else f"{down} × {across} cells, each the greatest of about "
        f"{round(rows / down)} × {round(columns / across)} values"
    )
    limit = number(_limit(found))
    above = "histogram, and " if found.histogram else ""
    return f"{above}{rows:,} × {columns:,} as {cell}; blue is -{limit}, white 0, red {limit}"


def _limit(found: Statistics) -> float:
    return max(abs(found.minimum or 0.0), abs(found.maximum or 0.0))


def _color(value: float, limit: float) -> Pixel:
    part = abs(value) / limit if limit else 0.0
    faded = round(255 * (1 - min(part, 1.0)))
    return (255, faded, faded) if value > 0 else (faded, faded, 255)


def _bars(counts: Sequence[int], width: int) -> list[bytes]:
    if not counts:
        return []
    most = max(counts)
    heights = [round(counts[x * len(counts) // width] * _HISTOGRAM / most) for x in range(width)]
    return [
        b"".join(bytes(_BAR if height >= level else _WHITE) for height in heights)
        for level in range(_HISTOGRAM, 0, -1)
    ]


def _solid(color: Pixel, width: int) -> bytes:
    return bytes(color) * width


def _png(width: int, lines: Sequence[bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, len(lines), 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line for line in lines))
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
