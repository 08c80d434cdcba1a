"""Gradients of what modules take and put out, looked at while the backward pass runs.

By hooks on tensors: they go with the graph that the tensors are part of, and nothing is put on a
module. Those on parameters are removed by remove(); copies and pickles of a parameter have none.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from enum import Enum
from typing import Any

from modpdb.probes._torch import torch_or_none


class Role(Enum):
    """What a tensor is to a module."""

    GIVEN = "its input"
    PUT_OUT = "its output"
    OWN = "its parameter"


Arrived = Callable[[list[tuple[Role, str]], Any], None]
"""Called with all that a tensor is, to modules by their paths in the order of the forward pass,
and its gradient. Must not raise."""


class GradientHooks:
    """Has *arrived* called for every gradient of the tensors that are watched."""

    def __init__(self, arrived: Arrived) -> None:
        self._torch = torch_or_none()
        self._arrived = arrived
        self._known: dict[int, tuple[weakref.ref[Any], list[tuple[Role, str]]]] = {}
        self._handles: list[Any] = []

    def watch(self, tensor: Any, role: Role, path: str) -> None:
        """Look at the gradient of *tensor*, if it will get one."""
        if not tensor.requires_grad:
            return
        known = self._known.get(id(tensor))
        if known is not None and known[0]() is tensor:
            if (role, path) not in known[1]:
                known[1].append((role, path))
            return
        roles = [(role, path)]
        arrived = self._arrived

        def hook(gradient: Any) -> None:
            arrived(roles, gradient)

        handle = self._torch.Tensor.register_hook(tensor, hook)
        self._known[id(tensor)] = weakref.ref(tensor), roles
        if tensor.is_leaf:
            self._handles.append(handle)  # the others go with the graph

    def new_pass(self) -> None:
        """A model is called: forget what is gone."""
        self._known = {key: each for key, each in self._known.items() if each[0]() is not None}

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._known.clear()
