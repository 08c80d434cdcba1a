"""Modules, parameters, buffers, variables."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import (
    Source,
    Typed,
    chosen_modules,
    complete_paths,
    held_modules,
    matches,
    matching_modules,
    means_all,
    not_understood,
    say_where,
    typed,
)
from modpdb.views.text import printable

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.checkpoints import Checkpoint


@command(
    "modules",
    "mods",
    options={"-d": "N", "-t": "TYPE", "--unfold": "", "--skeleton": ""},
    completes=complete_paths,
)
def modules(dbg: ModPdb, arguments: Arguments) -> None:
    """modules [-d N] [-t TYPE] [--unfold] [--skeleton] [TARGET]

    The tree of modules: class, parameters, memory, oddities.

    Blocks that are identical are one row, layers.{0…25}; --unfold shows each. -d N goes N
    levels deep, -t TYPE lists modules whose class fits (-t *Norm). TARGET is an expression, a
    path or a glob of paths (layers.*.self_attn); without it the modules that the frame holds.
    In a conversion, the tree that the checkpoint's tensor names imply; --skeleton, there or with
    a checkpoint's folder as TARGET, that of the transformers model which its config describes.
    """
    from modpdb.probes.modules import module_tree
    from modpdb.probes.tree import walk
    from modpdb.views import modules as views

    depth, unfold = arguments.number("-d"), bool(arguments.options.get("--unfold"))
    type_glob = arguments.text("-t")
    if arguments.options.get("--skeleton"):
        from modpdb.commands.skeleton import skeleton_of
        from modpdb.views.skeleton import skeleton_tree

        found = skeleton_of(dbg, arguments.target)
        dbg.show(*skeleton_tree(found, depth, unfold, type_glob))
        return
    target = typed(dbg, arguments.target)

    def show(module: Any, name: str) -> None:
        tree = module_tree(module, name)
        dbg.show(views.module_tree(tree, depth=depth, unfold=unfold, type_glob=type_glob))

    if target.module is not None:
        show(target.module, "")
        return
    held = held_modules(dbg)
    if isinstance(held, Source):
        _checkpoint_modules(dbg, held, target, depth, unfold, bool(type_glob))
        return
    say_where(dbg, held)
    if not target.text:
        for name, root in held.roots:
            if len(held.roots) > 1:
                dbg.message(f"{printable(name)}:")
            show(root, "")
        return
    matching = matching_modules(held, target)
    if len(matching) == 1:
        show(matching[0][1], matching[0][0])
        return
    paths = {path for path, _ in matching}
    for prefix, root in held.prefixed():
        tree = module_tree(root, prefix)
        if any(node.path in paths for node in walk(tree.root)):
            dbg.show(views.matches(tree, paths))


def _checkpoint_modules(
    dbg: ModPdb, source: Source, target: Typed, depth: int | None, unfold: bool, by_type: bool
) -> None:
    from modpdb.probes.checkpoints import checkpoint_tree
    from modpdb.views.modules import module_tree

    if by_type:
        raise UsageError("-t needs classes, and a checkpoint's tensor names tell none")
    checkpoint = _chosen(source, target)
    tree = checkpoint_tree(checkpoint, source.conversion.class_name)
    dbg.show(module_tree(tree, depth=depth, unfold=unfold))


def _chosen(source: Source, target: Typed) -> Checkpoint:
    """The checkpoint with the tensors at or below what *target* means."""
    if means_all(source, target):
        return source.checkpoint
    tensors = tuple(
        tensor
        for tensor in source.checkpoint.tensors
        if matches(tensor.name, target.text) or matches(tensor.name, f"{target.text}.*")
    )
    if not tensors:
        names = [tensor.name for tensor in source.checkpoint.tensors]
        names += [name.rpartition(".")[0] for name in names]
        raise UsageError(not_understood(target, "no tensor of the checkpoint", names))
    return replace(source.checkpoint, tensors=tensors)


@command("params", options={"--stats": "", "--untracked": ""}, completes=complete_paths)
def params(dbg: ModPdb, arguments: Arguments) -> None:
    """params [--stats | --untracked] [TARGET]

    The parameters: name, shape, dtype, memory, ties.

    --stats reads them: least, greatest, mean, deviation, NaN and Inf, and the function of
    torch.nn.init that such values look like (a guess by statistical tests, which miss a true one
    in 1 of 200; of a tensor of fewer than 256 values only a constant). TARGET is an expression
    that gives a module, or a path or glob of names (layers.0.*). In a conversion, the tensors
    of the checkpoint. --untracked: tensors and modules that the modules hold without registering
    them, which parameters(), state_dict() and .to() miss, and the line that fixes it.
    """
    if arguments.options.get("--untracked"):
        _untracked(dbg, arguments)
        return
    _tensors(dbg, arguments, "parameters")


@command("buffers", options={"--stats": ""}, completes=complete_paths)
def buffers(dbg: ModPdb, arguments: Arguments) -> None:
    """buffers [--stats] [TARGET]

    The buffers: name, shape, dtype, memory.

    Those that are not in the state dict are marked. TARGET and --stats as for `params`.
    """
    _tensors(dbg, arguments, "buffers")


def _untracked(dbg: ModPdb, arguments: Arguments) -> None:
    from modpdb.probes.module_state import named_modules
    from modpdb.probes.untracked import untracked
    from modpdb.views.untracked import untracked as view

    if arguments.options.get("--stats"):
        raise UsageError("--stats reads what is registered, --untracked lists what is not")
    chosen = chosen_modules(dbg, arguments.target)
    within = [each for path, module in chosen for each in named_modules(module, path)]
    try:
        held = held_modules(dbg)
    except UsageError:  # the modules of an expression, in a frame that holds none
        roots = chosen
    else:
        roots = chosen if isinstance(held, Source) else [*held.prefixed(), *chosen]
    dbg.show(view(untracked(roots, within)))


def _tensors(dbg: ModPdb, arguments: Arguments, kind: Literal["parameters", "buffers"]) -> None:
    from modpdb.probes.registered import parameters
    from modpdb.views.modules import tensor_rows

    stats = bool(arguments.options.get("--stats"))
    target = typed(dbg, arguments.target)
    if target.module is not None:
        dbg.show(tensor_rows(parameters(target.module, kind, stats=stats)))
        return
    held = held_modules(dbg)
    if isinstance(held, Source):
        _checkpoint_tensors(dbg, held, target, kind, stats)
        return
    say_where(dbg, held)

    itself, below = held.chooses(target.text), held.chooses(f"{target.text}.*")

    def wanted(name: str) -> bool:
        return not target.text or itself(name) or below(name)

    rows = [
        row
        for prefix, root in held.prefixed()
        for row in parameters(root, kind, prefix=prefix, wanted=wanted, stats=stats)
    ]
    if target.text and not rows:
        names = [row.name for _, root in held.roots for row in parameters(root, kind)]
        raise UsageError(not_understood(target, f"no name among the {kind}", names))
    dbg.show(tensor_rows(rows))


def _checkpoint_tensors(dbg: ModPdb, source: Source, target: Typed, kind: str, stats: bool) -> None:
    from modpdb.probes.checkpoints import tensor_rows
    from modpdb.views import modules as views

    if kind == "buffers":
        raise UsageError("a checkpoint does not tell buffers from parameters; `params` lists all")
    if stats:
        raise UsageError("--stats is for modules: of a checkpoint only headers are read")
    dbg.show(views.tensor_rows(tensor_rows(_chosen(source, target).tensors)))


@command("locals")
def frame_variables(dbg: ModPdb, arguments: Arguments) -> None:
    """locals

    The frame's variables, one line each.

    Tensors and modules have a one-line form: nothing is dumped, no lazy tensor materialised.
    """
    from modpdb.probes.values import frame_locals
    from modpdb.views.values import variables

    if arguments.target:
        raise UsageError(f"locals takes nothing; `p {arguments.target}` shows one variable")
    dbg.show(variables(frame_locals(dbg.curframe_locals)))
