"""What a module is: its hooks, where an attribute lives, what `nn.Module.__init__` set up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modpdb.commands.registry import Arguments, command
from modpdb.commands.targets import chosen_modules, complete_paths

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

    for path, module in chosen_modules(dbg, arguments.target):
        dbg.show(view(hook_report(module, path)))
