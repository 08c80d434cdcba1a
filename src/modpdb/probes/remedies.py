"""The line that registers what a module holds untracked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from modpdb.probes.untracked import Untracked

# What code mostly computes again from the config: left out of the state dict then. A guess.
_COMPUTED_AGAIN = re.compile(
    r"mask|cache|freq|cos|sin|pos(ition)?s?(_|$)|range|rope|alibi|inds|index|indices|table|grid"
)


@dataclass(frozen=True, slots=True)
class Remedy:
    """*line* is the source that fixes it, in which "…" stands for what is assigned now; "" where
    there is none. *reason*: what else is to be known, before the line."""

    line: str
    reason: str = ""


def remedy(alike: Sequence[Untracked]) -> Remedy:
    """What fixes *alike*: what one attribute holds, all of the same kind (`Untracked.what`)."""
    each = alike[0]
    if each.hides:
        return _unhide(each) if not each.of_class else _unhide_from_class(each)
    if each.also:
        return _elsewhere(each)
    if each.what == "computed tensor":
        if each.notes:
            return Remedy("", f"{each.notes[0]}: leave it")
        return Remedy("", "has a grad_fn: compute it in forward, a buffer would cut its gradient")
    if each.of_class:
        return Remedy(_attribute(each), f"of the class {each.of_class}; in __init__ instead")
    if not each.inside:
        return Remedy(_attribute(each))
    if each.container == "other" or each.length != len(alike):
        return Remedy(_alone(each), "each under a name of its own")
    return Remedy(_container(each))


def _unhide(each: Untracked) -> Remedy:
    line = f'del self.__dict__["{each.attribute}"]'
    return Remedy(line, f"hides {each.hides}['{each.attribute}'], which no read gives")


def _unhide_from_class(each: Untracked) -> Remedy:
    line = f"del {each.of_class}.{each.attribute}"
    return Remedy(line, f"hides {each.hides}['{each.attribute}'], which no read gives")


def _elsewhere(each: Untracked) -> Remedy:
    """It is registered, and `.to()` will part it from this name."""
    if each.view:
        return Remedy("", f"memory of {each.also}, which .to() parts from it: take it in forward")
    return Remedy("", f"also registered as {each.also}, where .to() puts a new tensor: read that")


def _attribute(each: Untracked) -> str:
    if each.what == "trained tensor":
        return f"self.{each.attribute} = nn.Parameter(…)"
    return _registering(each, each.attribute)


def _container(each: Untracked) -> str:
    name, by_name = each.attribute, each.container in ("dict", "mapping")
    if each.what == "tensor":
        items = "k, t in (…).items()" if by_name else "k, t in enumerate(…)"
        register = f'self.register_buffer(f"{name}_{{k}}", t{_persistence(name)})'
        return f"for {items}: {register}"
    kind = "Module" if each.what == "module" else "Parameter"
    if each.container == "mapping":
        return f"self.{name} = nn.{kind}Dict({{str(k): v for k, v in (…).items()}})"
    return f"self.{name} = nn.{kind}{'Dict' if by_name else 'List'}(…)"


def _alone(each: Untracked) -> str:
    words = re.sub(r"\W+", "_", "".join(each.inside)).strip("_")
    return _registering(each, f"{each.attribute}_{words}")


def _registering(each: Untracked, name: str) -> str:
    if each.what == "module":
        return f'self.add_module("{name}", …)'
    if each.what == "parameter":
        return f'self.register_parameter("{name}", …)'
    if each.what == "trained tensor":
        return f'self.register_parameter("{name}", nn.Parameter(…))'
    return f'self.register_buffer("{name}", …{_persistence(each.attribute)})'


def _persistence(name: str) -> str:
    return ", persistent=False" if _COMPUTED_AGAIN.search(name.lower()) else ""
