"""Gradients of what modules take and put out, looked at while the backward pass runs.

By hooks on tensors: they go with the graph that the tensors are part of, and nothing is put on a
module. Those of tensors that live are removed by remove(); copies and pickles have none.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from modpdb.probes._torch import torch_or_none


class Role(Enum):
    """What a tensor is to a module."""

    GIVEN = "its input"
    PUT_OUT = "its output"
    OWN = "its parameter"


Arrived = Callable[[list[tuple[Role, str]], Any], None]
"""Called with all that a tensor is, to modules by their paths in the order of the forward pass,
and its gradient. Must not raise."""


class _Watched(NamedTuple):
    tensor: weakref.ref[Any]
    roles: list[tuple[Role, str]]
    handle: Any  # of the hook


class GradientHooks:
    """Has *arrived* called for every gradient of the tensors that are watched."""

    def __init__(self, arrived: Arrived) -> None:
        self._torch = torch_or_none()
        self._arrived = arrived
        self._known: dict[int, _Watched] = {}

    def watch(self, tensor: Any, role: Role, path: str) -> None:
        """Look at the gradient of *tensor*, if it will get one."""
        if not tensor.requires_grad:
            return
        known = self._known.get(id(tensor))
        if known is not None and known.tensor() is tensor:
            if (role, path) not in known.roles:
                known.roles.append((role, path))
            return
        roles = [(role, path)]
        arrived = self._arrived

        def hook(gradient: Any) -> None:
            arrived(roles, gradient)

        # Else torch warns where the tensor is pickled, which leaves the hook out anyway.
        self._torch.utils.hooks.unserializable_hook(hook)
        handle = self._torch.Tensor.register_hook(tensor, hook)
        self._known[id(tensor)] = _Watched(weakref.ref(tensor), roles, handle)

    def new_pass(self) -> None:
        """A model is called: forget what is gone."""
        self._known = {key: each for key, each in self._known.items() if each.tensor() is not None}

    def remove(self) -> None:
        for each in self._known.values():
            each.handle.remove()
        self._known.clear()
