"""Which code a call of a module runs."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from modpdb.probes.forwards import Forward, Forwards


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def forward(self: Any, *args: Any) -> Any:
        return function(self, *args)

    return forward


def enclosed(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, x: function(self, x)


class Plain(torch.nn.Module):
    def forward(self, x):
        return x


CODE = Plain.forward.__code__


class Decorated(torch.nn.Module):
    forward = wrapped(wrapped(Plain.forward))


class Enclosed(torch.nn.Module):
    forward = enclosed(Plain.forward)


class Static(torch.nn.Module):
    forward = staticmethod(Plain.forward)


class Partial(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.forward = functools.partial(Plain.forward, self)


class Bound(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.forward = Plain().forward


class Computed(torch.nn.Module):
    @property
    def forward(self) -> Any:
        raise RuntimeError("run by a look")


class Circular(torch.nn.Module):
    def forward(self, x):
        return x


Circular.forward.__wrapped__ = Circular.forward  # type: ignore[attr-defined]


def test_below_decorators_and_in_instances() -> None:
    for cls in (Plain, Decorated, Enclosed, Static, Partial, Bound):
        assert Forwards().of(cls()) == Forward(CODE), cls


def test_a_dispatching_wrapper_is_the_forward() -> None:
    outermost: Any = Decorated.forward
    found = Forwards(lambda function: function is outermost.__wrapped__).of(Decorated())
    assert found.code is outermost.__wrapped__.__code__


def test_why_there_is_none() -> None:
    inner = torch.nn.Sequential(torch.nn.ReLU())
    in_place = torch.nn.Sequential(torch.nn.ReLU())
    in_place.compile(backend="eager")
    for module, begins in (
        (torch.nn.ModuleList(), "is a ModuleList, which has no forward"),
        (torch.jit.trace(inner, torch.ones(1)), "is scripted: "),
        (torch.compile(inner, backend="eager"), "is compiled: "),
        (in_place, "is compiled: "),
        (Computed(), "has no forward in Python: it is a property"),
        (Circular(), "has no forward in Python: it is a function"),
    ):
        found = Forwards().of(module)
        assert found.code is None and found.problem.startswith(begins), found


def test_half_constructed() -> None:
    assert Forwards().of(Plain.__new__(Plain)) == Forward(CODE)
