"""`call-path`: the way of a module's call down to the operators."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import (
    Held,
    Source,
    Typed,
    complete_paths,
    held_modules,
    matching_modules,
    split_target,
    typed,
)
from modpdb.probes._static import class_name, is_a
from modpdb.views.text import printable

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.source_calls import Given


@command("call-path", "cp", options={"--run": "", "--script": ""}, completes=complete_paths)
def call_path(dbg: ModPdb, arguments: Arguments) -> None:
    """call-path [--run] [--script] [TARGET [, INPUT …]]

    A module's call: hooks, forward, the calls in it, operators, kernels.

    TARGET is an expression that gives a module or a function, or a module's path, else what the
    frame holds; INPUT are the arguments of the call, as they would be typed in its brackets
    (call-path self.mlp, x). With them, what a layer that is known will do is predicted, and
    branches that they decide are followed.
    --run makes the call in a forked copy of the process and shows the operators that were
    observed; random state, gradients, hooks, buffers and caches stay as they are here, but files
    that it writes and memory that processes share do not. --script asks torch.jit.script there
    whether the module compiles.
    """
    from modpdb.probes import call_path as probe
    from modpdb.probes._torch import torch_or_none

    text, written = split_target(arguments.target)
    if torch_or_none() is None:
        raise UsageError(
            "call-path is about torch's modules, and the script has not imported torch"
        )
    target, path, owner = _target(dbg, typed(dbg, text))
    given = _given(dbg, written)
    try:
        data = probe.call_path(target, path, given, owner)
    except TypeError as error:
        raise UsageError(f"{path}: {error}") from None
    run = _run(dbg, target, given, path) if arguments.options.get("--run") else None
    scripted = _script(dbg, target, path) if arguments.options.get("--script") else None
    from modpdb.views.call_path import call_path as view

    dbg.show(view(data, run, scripted))


def _target(dbg: ModPdb, target: Typed) -> tuple[Any, str, Any]:
    """What is asked about, the path to show, and the module that holds it, where it is known."""
    if target.module is not None:
        return target.module, target.text, None
    if target.is_value:
        if is_a(target.value, type):
            name = class_name(target.value)
            raise UsageError(f"{name} is a class: call-path needs a module made of it")
        return target.value, target.text, None
    held = held_modules(dbg)
    if isinstance(held, Source):
        raise UsageError(
            "a conversion has tensors and no module that could be called; `linear-path` and "
            "`modules` know its checkpoint"
        )
    if held.where:
        dbg.message(printable(held.where))
    found = matching_modules(held, target) if target.text else list(held.roots)
    if len(found) > 1:
        some = ", ".join([path for path, _ in found[:3]] + ["…"] * (len(found) > 3))
        raise UsageError(f"call-path shows one module, and {len(found)} are meant: {some}")
    path, module = found[0]
    return module, path, _owner(held, path)


def _owner(held: Held, path: str) -> Any:
    parent = path.rpartition(".")[0]
    return next((module for name, module in held.named() if name == parent), None)


def _given(dbg: ModPdb, written: str) -> Given | None:
    """The arguments of the call as they were typed, evaluated in the frame; None without any."""
    if not written:
        return None
    try:
        call = ast.parse(f"f({written}\n)", mode="eval").body
        problem = ""
    except SyntaxError as error:
        call, problem = None, f": {error.msg}"
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):  # `x) + (x`
        raise UsageError(f"INPUT {written!r} cannot be the arguments of a call{problem}")
    keys: list[ast.expr | None] = [
        None if each.arg is None else ast.Constant(each.arg) for each in call.keywords
    ]
    values = [each.value for each in call.keywords]
    both = ast.Tuple(
        [ast.List(call.args, ast.Load()), ast.Dict(keys, values)],
        ast.Load(),
    )
    code = compile(ast.fix_missing_locations(ast.Expression(both)), "<INPUT>", "eval")
    try:
        args, kwargs = eval(code, dbg.curframe.f_globals, dbg.curframe_locals)
    except Exception as error:
        raise UsageError(f"INPUT {written!r}: {type(error).__name__}: {error}") from None
    return args, kwargs


def _run(dbg: ModPdb, target: Any, given: Given | None, text: str) -> Any:
    from modpdb.probes.call_path import code_of
    from modpdb.probes.observing import missing_arguments, run_once

    args, kwargs = given or ((), {})
    missing = missing_arguments(target, args, kwargs)
    if missing:
        raise UsageError(
            f"--run needs the arguments of the call: call-path --run {text}, {missing}"
        )
    return run_once(target, args, kwargs, code_of(target), lambda: _say_waiting(dbg))


def _script(dbg: ModPdb, target: Any, text: str) -> Any:
    from modpdb.probes.module_state import is_module
    from modpdb.probes.scripting import try_script

    if not is_module(target):
        raise UsageError(f"--script is for modules, and {text} is a {class_name(type(target))}")
    return try_script(target, lambda: _say_waiting(dbg))


def _say_waiting(dbg: ModPdb) -> None:
    dbg.message("running in a forked copy of the process, on one thread; Ctrl-C ends it")
