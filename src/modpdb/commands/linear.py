"""`linear-path`: a linear layer's way from the attribute down to the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import (
    Held,
    Source,
    Typed,
    complete_paths,
    held_modules,
    matches,
    matching_modules,
    means_all,
    not_understood,
    split_target,
    typed,
)
from modpdb.probes._static import class_name

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.checkpoints import TensorEntry
    from modpdb.probes.linear_checkpoint import CheckpointLinear


@command("linear-path", "lp", options={"--run": ""}, completes=complete_paths)
def linear_path(dbg: ModPdb, arguments: Arguments) -> None:
    """linear-path [--run] [TARGET [, INPUT]]

    A linear layer's way from forward down to the kernel.

    Its steps are F.linear, the builtin, the dispatcher, at::native::linear. With INPUT (an
    expression that gives a tensor) the shapes at every step, the branch taken and, where it
    fits, the arithmetic; without, the branches by kind of input. --run observes the operators
    with the profiler and sets them beside the prediction. Without TARGET: every linear layer
    that the frame holds. In a conversion: checkpoint tensor, GGUF name and ggml shape.
    """
    text, given = split_target(arguments.target)
    target = typed(dbg, text)
    run = bool(arguments.options.get("--run"))
    if target.module is not None:
        _show_layer(dbg, target.module, text, None, given, run)
        return
    held = held_modules(dbg)
    if isinstance(held, Source):
        _show_checkpoint(dbg, held, target, given, run)
    elif not text:
        _list_layers(dbg, held)
    else:
        _show_matching(dbg, held, target, given, run)


def _show_matching(dbg: ModPdb, held: Held, target: Typed, given: str, run: bool) -> None:
    from modpdb.probes.linear import linears

    if held.where:
        dbg.message(held.where)
    found = matching_modules(held, target)
    if len(found) > 1:
        from modpdb.views.linear import linears as view

        rows = [row for path, module in found for row in linears(module, path)]
        if not rows:
            raise UsageError(f"none of the {len(found)} modules that match is a linear layer")
        dbg.show(view(rows))
        return
    path, module = found[0]
    parent = path.rpartition(".")[0]
    owner = next((each for name, each in held.named() if name == parent), None)
    _show_layer(dbg, module, path, owner, given, run)


def _show_layer(dbg: ModPdb, layer: Any, path: str, owner: Any, given: str, run: bool) -> None:
    from modpdb.probes import linear as probe
    from modpdb.probes.linear_layer import kind_of
    from modpdb.probes.profiling import observe
    from modpdb.views import linear as views

    if kind_of(layer) is None:
        rows = probe.linears(layer, path)
        if not rows:
            raise UsageError(f"{path} is a {class_name(type(layer))}, no linear layer")
        dbg.show(views.linears(rows))
        return
    x = _input(dbg, given)
    data = probe.linear_path(layer, path, x, owner)
    dbg.show(views.linear_path(data, observe(layer, x) if run else None))


def _input(dbg: ModPdb, given: str) -> Any:
    """The tensor that INPUT gives, None without one."""
    if not given:
        return None
    from modpdb.probes._torch import torch_or_none

    try:
        value = eval(given, dbg.curframe.f_globals, dbg.curframe_locals)
    except Exception as error:
        raise UsageError(f"INPUT {given!r}: {type(error).__name__}: {error}") from None
    torch = torch_or_none()
    if torch is None or not issubclass(type(value), torch.Tensor):
        raise UsageError(f"INPUT {given!r}: expected a tensor, found {class_name(type(value))}")
    return value


def _list_layers(dbg: ModPdb, held: Held) -> None:
    from modpdb.probes.linear import linears
    from modpdb.views.linear import linears as view

    rows = [row for prefix, root in held.prefixed() for row in linears(root, prefix)]
    if not rows:
        names = ", ".join(name for name, _ in held.roots)
        raise UsageError(f"no linear layer in {names}")
    if held.where:
        dbg.message(held.where)
    dbg.show(view(rows))


# -- a checkpoint being converted ----------------------------------------------------------------


def _show_checkpoint(dbg: ModPdb, source: Source, target: Typed, given: str, run: bool) -> None:
    from modpdb.probes.linear_checkpoint import linear_rows
    from modpdb.views.linear import linears
    from modpdb.views.linear_checkpoint import checkpoint_linear_path

    if given or run:
        raise UsageError("a conversion has tensors, and no layer that could take INPUT or be run")
    if means_all(source, target):
        found = _matrices(source)
    else:
        found = _weights(source, target.text)
        if not found:
            names = [tensor.name.removesuffix(".weight") for tensor in source.checkpoint.tensors]
            raise UsageError(not_understood(target, "no tensor of the checkpoint", names))
    if target.text and len(found) == 1:
        dbg.show(checkpoint_linear_path(_path_of(source, found[0])))
    else:
        dbg.show(linears(linear_rows(_path_of(source, each) for each in found)))


def _weights(source: Source, target: str) -> list[TensorEntry]:
    """The weights that *target* means: a path or glob, without `.weight` too, or a GGUF name."""
    from modpdb.probes.conversion_tensors import gguf_name

    tensors = source.checkpoint.tensors
    exact = [each for each in tensors if each.name in (target, f"{target}.weight")]
    if exact:
        return exact
    found = [
        each
        for each in tensors
        if matches(each.name, target) or matches(each.name.removesuffix(".weight"), target)
    ]
    if found:
        return found
    named = [(each, gguf_name(source.conversion, each.name)) for each in tensors]
    return [
        each
        for each, gguf in named
        if gguf is not None
        and (matches(gguf.name, target) or matches(gguf.name, f"{target}.weight"))
    ]


def _matrices(source: Source) -> list[TensorEntry]:
    return [
        tensor
        for tensor in source.checkpoint.tensors
        if tensor.shape is not None and len(tensor.shape) == 2 and tensor.name.endswith(".weight")
    ]


def _path_of(source: Source, tensor: TensorEntry) -> CheckpointLinear:
    from modpdb.probes.conversion_tensors import conversion_tensor, gguf_name
    from modpdb.probes.linear_checkpoint import checkpoint_linear_path

    if tensor.shape is None:
        raise UsageError(f"{tensor.name}: its shape is not known before the converter makes it")
    named = gguf_name(source.conversion, tensor.name)
    bias = conversion_tensor(source.conversion, tensor.name.removesuffix("weight") + "bias")
    return checkpoint_linear_path(
        tensor.name,
        tensor.shape,
        tensor.dtype or "?",
        tensor.file,
        named.name if named else None,
        named.ggml_shape if named else None,
        bias.shape if bias is not None and tensor.name.endswith("weight") else None,
    )
