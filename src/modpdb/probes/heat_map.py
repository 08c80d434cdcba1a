"""A tensor as a field of few cells, for a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.tensors import NoStatistics, Statistics

_MOST = 256  # cells on a side


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Each cell is the value of the greatest magnitude among those it stands for, so that no
    outlier is averaged away. *shape*: rows and columns of values, the last dimension across."""

    cells: tuple[tuple[float, ...], ...]
    shape: tuple[int, int]


def heat_map(tensor: Any, found: Statistics) -> HeatMap:
    """Cells of a strided real torch tensor, read a band of rows at a time; NaN is left out.
    Raises NoStatistics for others."""
    torch = torch_or_none()
    with undisturbed(torch):
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex():
            raise NoStatistics("only a dense tensor of real numbers has a heat map")
        flat = tensor.reshape(1, -1) if tensor.ndim < 2 else tensor
        if flat.ndim > 2:
            flat = flat.flatten(0, -2)
        rows, columns = flat.shape
        limit = max(-(found.minimum or 0.0), found.maximum or 0.0)
        bands = min(rows, _MOST)
        cells = []
        for band in range(bands):
            part = flat[band * rows // bands : (band + 1) * rows // bands]
            high, low = part.amax(0).float(), part.amin(0).float()
            line = torch.where(high.abs() >= low.abs(), high, low)
            line = line.nan_to_num(0.0, limit, -limit)
            width = min(columns, _MOST)
            cells.append(
                tuple(
                    max(line[c * columns // width : (c + 1) * columns // width].tolist(), key=abs)
                    for c in range(width)
                )
            )
    return HeatMap(tuple(cells), (rows, columns))
