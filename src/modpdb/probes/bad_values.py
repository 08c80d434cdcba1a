"""NaN and Inf in tensors: whether there are any, at next to no cost; how many, and where."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import instance_dict
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.module_state import entries, named_modules
from modpdb.probes.tensor_notes import Unreadable, is_traced, modes_off, nested_tensors
from modpdb.probes.tensors import (
    CHUNK,
    NoStatistics,
    Statistics,
    TensorFacts,
    TensorReader,
    local_tensor,
    statistics,
)


@dataclass(frozen=True, slots=True)
class Found:
    """A tensor of a call: its place in what was given or put out, "" where it is that itself."""

    name: str
    facts: TensorFacts
    statistics: Statistics | None  # None where there are no values to read
    first: tuple[int, ...] | None = None  # the index of the first NaN or Inf

    @property
    def is_bad(self) -> bool:
        return self.statistics is not None and bool(self.statistics.nan or self.statistics.inf)


class BadValues:
    """Looks for NaN and Inf. Autograd, RNG and the tensors are left as they are."""

    def __init__(self) -> None:
        self._torch = torch = torch_or_none()
        self._reader = TensorReader(torch)
        self._plain = (torch.Tensor, torch.nn.Parameter)
        self._version = torch._C.TensorBase._version.__get__
        self._is_inference = torch._C.TensorBase.is_inference
        self._floats: dict[Any, bool] = {}
        self._unreadable = Unreadable(torch)

    def is_traced(self) -> bool:
        """Whether torch.jit.trace is at work: then nothing can be looked at."""
        return is_traced(self._torch)

    def tensors(self, value: Any) -> list[tuple[str, Any]]:
        """The tensors in *value* with their places."""
        return list(nested_tensors(self._reader, value))

    def is_bad(self, tensor: Any) -> bool:
        """Whether *tensor* holds NaN or Inf.

        By its sum, which takes about 5 µs for 80,000 values. One that is not finite may have
        overflowed: then the values are looked at one by one.
        """
        if type(tensor) in self._plain and not self._modes():
            return not self._is_finite(tensor)
        with self._looking():
            shard = local_tensor(tensor)
            return not self._is_finite(tensor if shard is None else shard)

    def version(self, tensor: Any) -> int | None:
        """How often *tensor* was written to; None of an inference tensor, which does not count."""
        return None if self._is_inference(tensor) else int(self._version(tensor))

    def kinds(self, tensor: Any) -> set[str]:
        """Which of nan, inf, -inf are in *tensor*."""
        with self._looking():
            shard = local_tensor(tensor)  # all of it would ask the other processes, too
            readable = self._readable(tensor if shard is None else shard)
            try:
                low, high = (float(each) for each in readable.aminmax())
            except (RuntimeError, TypeError, NotImplementedError):
                return set()
        found = {str(each) for each in (low, high) if math.isinf(each)}
        return {"nan"} if math.isnan(low) else found

    def found(self, name: str, tensor: Any) -> Found:
        """All that is said of a tensor."""
        with undisturbed(self._torch), modes_off(self._torch):
            facts = self._reader.facts(tensor)
            try:
                stats = statistics(tensor)
            except NoStatistics:
                return Found(name, facts, None)
            shard = local_tensor(tensor)
            readable = self._readable(tensor if shard is None else shard)
            first = self._first(readable) if stats.nan or stats.inf else None
            return Found(name, facts, stats, first)

    def weights(self, module: Any, parts: bool) -> Iterator[Found]:
        """The parameters and buffers of *module* itself, and with *parts* of all below it, that
        hold NaN or Inf."""
        for path, part in named_modules(module) if parts else [("", module)]:
            state = instance_dict(part)
            for registry in ("_parameters", "_buffers"):
                for name, value in entries(state, registry):
                    if self._reader.is_tensor(value) and self.is_bad(value):
                        yield self.found(f"{path}.{name}" if path else name, value)

    def _modes(self) -> int:
        c = self._torch._C
        return int(c._len_torch_dispatch_stack() + c._len_torch_function_stack())

    @contextlib.contextmanager
    def _looking(self) -> Iterator[None]:
        with undisturbed(self._torch), modes_off(self._torch):
            yield

    def _is_finite(self, tensor: Any) -> bool:
        """Whether there is neither NaN nor Inf, as far as *tensor* has values at all."""
        dtype = tensor.dtype
        floats = self._floats.get(dtype)
        if floats is None:
            floats = self._floats[dtype] = dtype.is_floating_point or dtype.is_complex
        if not floats or tensor.is_meta:
            return True
        if self._unreadable.why(tensor, on_cuda=tensor.is_cuda):
            return True
        try:
            readable = self._readable(tensor)
            return math.isfinite(readable.sum().item()) or bool(readable.isfinite().all())
        except (RuntimeError, TypeError, NotImplementedError):
            return True  # fake, quantised, sparse: nothing that could be summed

    def _readable(self, tensor: Any) -> Any:
        """*tensor* in a dtype that has arithmetic and an order."""
        tensor = tensor.detach()
        if tensor.is_complex():
            return self._torch.view_as_real(tensor.resolve_conj())
        return tensor.float() if tensor.dtype.itemsize == 1 else tensor  # float8

    def _first(self, tensor: Any) -> tuple[int, ...] | None:
        flat = tensor.reshape(-1)
        for start in range(0, flat.shape[0], CHUNK):
            bad = flat[start : start + CHUNK].isfinite().logical_not()
            if bad.any():
                index = start + int(bad.to(self._torch.uint8).argmax())
                return tuple(
                    int(each)
                    for each in self._torch.unravel_index(
                        self._torch.tensor(index), tuple(tensor.shape)
                    )
                )
        return None
