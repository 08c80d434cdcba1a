"""`state`: what a module's state dict holds, and how it stands to a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import (
    Held,
    Source,
    Typed,
    complete_paths,
    held_modules,
    not_understood,
    typed,
)
from modpdb.views.text import printable

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.checkpoints import Checkpoint
    from modpdb.probes.state import State
    from modpdb.probes.state_run import Ran

_AGAINST = re.compile(r"(?:^|\s)against(?:\s+(?P<path>.*))?$", re.DOTALL)


@command(
    "state",
    options={"--run": "", "--unfold": ""},
    completes=complete_paths,
    file_after="against",
    options_anywhere=True,
)
def state(dbg: ModPdb, arguments: Arguments) -> None:
    """state [--run] [--unfold] [TARGET] [against PATH]

    The state dict's keys; against a checkpoint: what is missing, unexpected, renamed.

    Keys that differ in their numbers only are one row; --unfold shows each. Buffers that are not
    in it, extra state, hooks and methods that may change it are said. They are not run; --run
    runs state_dict() in a forked copy of the process, and says what came of it. TARGET is an
    expression that gives a module, or a path or glob of keys (layers.0.*).

    PATH is a model folder, a .safetensors file or one of torch.save; only headers are read, and
    no pickle's code is run. Missing, unexpected and other shapes are what a strict
    load_state_dict would find. Likely renames, a prefix, a part of names, are a guess.
    """
    text, path = _parted(arguments.target)
    options = arguments.options
    run, unfold = bool(options.get("--run")), bool(options.get("--unfold"))
    checkpoint = None if path is None else _opened(path)
    found = _asked(dbg, text, run)
    if checkpoint is None:
        from modpdb.views.state import state as view

        dbg.show(*(view(asked.state, asked.ran, unfold=unfold) for asked in found))
        return
    if len(found) > 1:
        names = ", ".join(asked.state.class_name for asked in found)
        raise UsageError(f"{len(found)} modules here ({names}): state NAME against PATH takes one")
    _compare(dbg, found[0], checkpoint, unfold)


def _parted(text: str) -> tuple[str, str | None]:
    """Target and path, which is None without `against`."""
    match = _AGAINST.search(text)
    if match is None:
        return text, None
    path = (match["path"] or "").strip()
    if not path:
        raise UsageError("against needs a path: state [TARGET] against PATH")
    return text[: match.start()].strip(), path


def _opened(path: str) -> Checkpoint:
    from modpdb.probes.checkpoint_files import open_checkpoint
    from modpdb.probes.checkpoints import CheckpointError

    if path.endswith(".gguf"):
        raise UsageError(f"{path}: a GGUF file's names are those of llama.cpp, no module's")
    try:
        return open_checkpoint(Path(path).expanduser())
    except CheckpointError as error:
        raise UsageError(str(error)) from None


# -- whose state -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """A state that is meant; *ran*: what running it gave, None where that was not asked for.
    *inside* tells which of a checkpoint's names it is about."""

    state: State
    ran: Ran | None
    inside: Callable[[str], bool]


def _asked(dbg: ModPdb, text: str, run: bool) -> list[_Asked]:
    target = typed(dbg, text)
    if target.module is not None:
        path = _path_of(dbg, target.module)
        return [_whole(dbg, target.module, path, run)]
    held = held_modules(dbg)
    if isinstance(held, Source):
        raise UsageError(
            "a conversion holds tensors and no module: `params` lists them, and `skeleton` sets "
            "them beside the model's parameters"
        )
    if held.where:
        dbg.message(printable(f"{', '.join(name for name, _ in held.roots)}, {held.where}"))
    if not text:
        return [_whole(dbg, module, prefix, run) for prefix, module in held.prefixed()]
    found = ((prefix, _whole(dbg, module, "", run)) for prefix, module in held.prefixed())
    return _chosen(held, target, found)


def _path_of(dbg: ModPdb, module: Any) -> str:
    """Where *module* stands in a model that the frame holds; "" where it does not."""
    from modpdb.probes.module_state import named_modules

    try:
        held = held_modules(dbg)
    except UsageError:
        return ""
    if isinstance(held, Source):
        return ""
    paths = (named_modules(root) for _, root in held.roots)
    return next((path for path, each in chain.from_iterable(paths) if each is module), "")


def _whole(dbg: ModPdb, module: Any, path: str, run: bool) -> _Asked:
    from modpdb.probes.state import state_of

    start = f"{path}." if path else ""
    return _Asked(
        state_of(module, path),
        _ran(dbg, module, path) if run else None,
        lambda name: name.startswith(start),
    )


def _ran(dbg: ModPdb, module: Any, path: str) -> Ran:
    from modpdb.probes.state_run import run_state

    return run_state(module, path, lambda: dbg.message("running state_dict() …"))


def _chosen(held: Held, target: Typed, found: Iterable[tuple[str, _Asked]]) -> list[_Asked]:
    """What of each state is at or below the path or glob that was typed, which may begin with
    the prefix that the paths of that root have."""
    itself, below = held.chooses(target.text), held.chooses(f"{target.text}.*")

    def is_meant(path: str) -> bool:
        return itself(path) or below(path)

    chosen, names = [], []
    for prefix, asked in found:

        def wanted(name: str, start: str = f"{prefix}." if prefix else "") -> bool:
            return is_meant(f"{start}{name}")

        whole = asked.state
        names += [row.name for row in whole.rows]
        part = replace(
            whole,
            rows=tuple(row for row in whole.rows if wanted(row.name)),
            left_out=tuple(row for row in whole.left_out if wanted(row.name)),
            extra=tuple(each for each in whole.extra if wanted(each.path)),
            code=tuple(each for each in whole.code if wanted(each.path)),
        )
        if part.rows or part.left_out or part.extra or part.code:
            ran = asked.ran
            if ran is not None:
                ran = replace(ran, keys=tuple(each for each in ran.keys if wanted(each.name)))
            chosen.append(_Asked(part, ran, wanted))
    if not chosen:
        raise UsageError(not_understood(target, "no key of a state dict", names))
    return chosen


# -- beside a checkpoint ---------------------------------------------------------------------------


def _compare(dbg: ModPdb, asked: _Asked, checkpoint: Checkpoint, unfold: bool) -> None:
    from modpdb.probes.registered import TensorRow
    from modpdb.probes.state import EXTRA
    from modpdb.probes.state_against import state_against
    from modpdb.probes.tree import joined
    from modpdb.views.state_against import against

    found = asked.state
    rows = [*found.rows, *(TensorRow(joined(e.path, EXTRA), None) for e in found.extra)]
    if asked.ran is not None:
        if asked.ran.error:
            raise UsageError(f"state_dict() raises {asked.ran.error}")
        tied = {row.name: row.tied for row in found.rows}
        rows = [TensorRow(e.name, e.facts, tied.get(e.name, ())) for e in asked.ran.keys]
    # A checkpoint of the part alone has other names than the part has in the whole.
    tensors = [t for t in checkpoint.tensors if asked.inside(t.name)] or checkpoint.tensors
    compared = state_against(rows, tensors, [row.name for row in found.left_out])
    dbg.show(against(compared, found.class_name, checkpoint, unfold=unfold))
    if (compared.missing or compared.unexpected) and Path(
        checkpoint.folder, "config.json"
    ).exists():
        where = printable(checkpoint.folder)
        dbg.message(f"`skeleton {where}` tells what transformers renames and stacks on loading")
