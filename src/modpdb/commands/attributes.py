"""What a module is: its hooks, where an attribute lives, what `nn.Module.__init__` set up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import (
    Source,
    Typed,
    chosen_modules,
    complete_paths,
    held_modules,
    matching_modules,
    say_where,
    typed,
)

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb


@command("hooks", completes=complete_paths)
def hooks(dbg: ModPdb, arguments: Arguments) -> None:
    """hooks [TARGET]

    Every hook on a module, on those below it and on their tensors, in the order in which they run.

    With the function, what it is bound to and where it is defined; hooks for all modules,
    parametrizations and a replaced `forward` too. TARGET is an expression, a path or a glob of
    paths. Hooks on the nodes of autograd's graph, as DDP sets them, cannot be listed.
    """
    from modpdb.probes.hooks import hook_report
    from modpdb.views.hooks import hooks as view

    dbg.show(view(hook_report(chosen_modules(dbg, arguments.target))))


@command("attr", completes=complete_paths)
def attr(dbg: ModPdb, arguments: Arguments) -> None:
    """attr EXPR.NAME

    Where an attribute lives: the places that Python asks in turn, and which of them has it.

    EXPR is an expression or a module path (attr layers.0.mlp) and is evaluated; NAME is looked up
    without reading it: no property, no parametrization is run. What is hidden behind it is named,
    and what an assignment would do for each kind of value.
    """
    from modpdb.probes.assignment import assignments
    from modpdb.probes.attribute import attribute
    from modpdb.views.attributes import attribute as view

    owner, name = _owner_and_name(dbg, arguments.target)
    dbg.show(view(arguments.target, attribute(owner, name), assignments(owner, name)))


def _owner_and_name(dbg: ModPdb, text: str) -> tuple[Any, str]:
    """The object that EXPR gives, and NAME.

    Raises UsageError where *text* is no EXPR.NAME, or EXPR is neither an expression nor a path.
    """
    expression, dot, name = (part.strip() for part in text.rpartition("."))
    if not re.fullmatch(r"\w+", name):
        found = f"not {text!r}" if text else "and there is none"
        raise UsageError(f"attr takes EXPR.NAME, as in `attr self.weight`, {found}")
    target = typed(dbg, expression)
    if dot and target.has_value:
        return target.value, name
    return _module(dbg, target), name


def _module(dbg: ModPdb, target: Typed) -> Any:
    """The one module at a path; without one, the one that the frame holds."""
    held = held_modules(dbg)
    if isinstance(held, Source):
        raise UsageError(f"{target.text!r} is no expression here{target.refusal}")
    say_where(dbg, held)
    found = matching_modules(held, target) if target.text else list(held.roots)
    if len(found) > 1:
        paths = ", ".join([path for path, _ in found[:3]] + ["…"] * (len(found) > 3))
        raise UsageError(f"{len(found)} modules are meant, attr takes one: {paths}")
    return found[0][1]


@command("internals", completes=complete_paths)
def internals(dbg: ModPdb, arguments: Arguments) -> None:
    """internals [TARGET]

    What nn.Module.__init__ set up in a module, as it stands now.

    Its seventeen attributes in their order, those that are not as it left them brightly; what
    else the instance holds, by kind; and what torch keeps for all modules. Without TARGET `self`,
    or the modules that the frame holds; TARGET is an expression, a path or a glob of paths.
    """
    from modpdb.probes.internals import internals as probe
    from modpdb.views.internals import internals as view

    chosen = chosen_modules(dbg, arguments.target)
    dbg.show(view([(path, probe(module)) for path, module in chosen]))
