"""What a command is about: the rest of the line, or what the frames hold."""

from __future__ import annotations

import fnmatch
import io
import os
import re
import tokenize
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from modpdb.commands.registry import UsageError
from modpdb.probes._static import class_name, instance_dict
from modpdb.views.text import plural, printable

# modpdb.probes.module_state is imported where it is used: what stands behind it would be an eighth
# of the way to the first prompt.

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.checkpoints import Checkpoint
    from modpdb.probes.conversion import Conversion

_GLOB = re.compile(r"[*?]")
_PATH = re.compile(r"[\w.*?\[\]!-]+")
_MISSING = object()
RUN_MODEL_BINDS = ("_model", "_tokenizer", "_inputs", "_out")
"""What run-model binds in a frame. Without a target a command is about what the script holds."""
_COMPLETED = 2_000  # module paths looked at for one Tab


class Held(NamedTuple):
    """Modules that a frame holds: each with the expression that reaches it there, and a word
    about the frame where it is not the current one."""

    roots: tuple[tuple[str, Any], ...]
    where: str = ""

    def prefixed(self) -> Iterator[tuple[str, Any]]:
        """Each root with what its paths begin with: its own name where there are several."""
        for name, root in self.roots:
            yield (name if len(self.roots) > 1 else ""), root

    def named(self) -> Iterator[tuple[str, Any]]:
        """Every module, by its path."""
        from modpdb.probes.module_state import named_modules

        for prefix, root in self.prefixed():
            yield from named_modules(root, prefix)

    def chooses(self, pattern: str) -> Callable[[str], bool]:
        """What tells whether a path is meant by *pattern*, which may begin with the root's name."""
        first = f"{self.roots[0][0]}." if len(self.roots) == 1 else ""
        return lambda path: matches(f"{first}{path}", pattern)


class Source(NamedTuple):
    """The tensors of the checkpoint that is being converted."""

    conversion: Conversion
    checkpoint: Checkpoint


# -- what the frames hold ------------------------------------------------------------------------


def frames_outwards(dbg: ModPdb) -> Iterator[tuple[types.FrameType, Mapping[str, Any]]]:
    """The current frame and its callers, each with its variables."""
    for frame, _ in reversed(dbg.stack[: dbg.curindex + 1]):
        yield frame, dbg.curframe_locals if frame is dbg.curframe else frame.f_locals


def whole_stack(dbg: ModPdb) -> list[tuple[types.FrameType, Mapping[str, Any]]]:
    """Every frame, innermost first wherever the user stands, with its variables."""
    return [
        (frame, dbg.curframe_locals if frame is dbg.curframe else frame.f_locals)
        for frame, _ in reversed(dbg.stack)
    ]


def held_modules(dbg: ModPdb) -> Held | Source:
    """The modules to speak of without a target: ``self``, else among the locals, else held by
    ``self``; else the checkpoint of a conversion; else the same in the callers.

    Raises UsageError, with what was looked at, where there is none.
    """
    frames = list(frames_outwards(dbg))
    here = _held_by(frames[0][1])
    if here:
        return Held(here)
    source = _conversion_source([variables for _, variables in frames])
    if source is not None:
        return source
    for frame, variables in frames[1:]:
        found = _held_by(variables)
        if found:
            return Held(found, f"held by the caller {place_of(frame)}")
    raise UsageError(_nothing_found(frames))


def models_in_reach(dbg: ModPdb) -> Iterator[tuple[str, Any]]:
    """What every frame of the stack holds, from the current one outwards: the expression that
    reaches it there, and the module."""
    if dbg.curframe is not None:
        for _, variables in frames_outwards(dbg):
            yield from _held_by(variables)


def place_of(frame: types.FrameType) -> str:
    file = os.path.basename(frame.f_code.co_filename)
    return f"{frame.f_code.co_qualname}() at {file}:{frame.f_lineno}"


def _nothing_found(frames: list[tuple[types.FrameType, Mapping[str, Any]]]) -> str:
    callers = f" and of its {plural(len(frames) - 1, 'caller')}" if len(frames) > 1 else ""
    return (
        f"no modules here: looked at the variables of {frames[0][0].f_code.co_name}(){callers}, "
        "and at what `self` holds; `locals` lists the variables"
    )


def _held_by(variables: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    from modpdb.probes.module_state import is_module

    owner = variables.get("self", _MISSING)
    if is_module(owner):
        return (("self", owner),)
    own = _outermost(
        (name, value)
        for name, value in variables.items()
        if is_module(value) and name not in RUN_MODEL_BINDS
    )
    if own or owner is _MISSING:
        return own
    return _outermost(
        (f"self.{name}", value) for name, value in instance_dict(owner).items() if is_module(value)
    )


def _outermost(found: Iterable[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """Without those that stand inside another, and each once."""
    from modpdb.probes.module_state import named_modules

    unique = {id(value): (name, value) for name, value in reversed(list(found))}
    if len(unique) < 2:
        return tuple(unique.values())
    inside = {
        id(module)
        for _, root in unique.values()
        for path, module in named_modules(root)
        if path and module is not root
    }
    return tuple(reversed([each for key, each in unique.items() if key not in inside]))


def _conversion_source(frames: list[Mapping[str, Any]]) -> Source | None:
    from modpdb.probes.checkpoints import CheckpointError
    from modpdb.probes.conversion import find_conversion
    from modpdb.probes.conversion_tensors import conversion_checkpoint

    conversion = find_conversion(frames)
    if conversion is None:
        return None
    try:
        return Source(conversion, conversion_checkpoint(conversion))
    except CheckpointError as error:
        raise UsageError(f"the checkpoint being converted cannot be read: {error}") from None


# -- what was typed ------------------------------------------------------------------------------


class Typed(NamedTuple):
    """A target as typed, evaluated once as an expression of the frame: it may have effects.

    ``value`` is a marker where that raised; ``refusal`` says what came of it where a module was
    wanted.
    """

    text: str
    value: Any = _MISSING
    refusal: str = ""

    @property
    def is_value(self) -> bool:
        """Whether it was evaluated to something, be that None."""
        return self.value is not _MISSING

    @property
    def module(self) -> Any:
        """The module that it gives, None where it gives none."""
        from modpdb.probes.module_state import is_module

        return self.value if self.has_value and is_module(self.value) else None

    @property
    def has_value(self) -> bool:
        """Whether the text is an expression that gave a value."""
        return self.value is not _MISSING


def typed(dbg: ModPdb, text: str) -> Typed:
    if not text:
        return Typed("")
    try:
        value = eval(text, dbg.curframe.f_globals, dbg.curframe_locals)
    except Exception as error:
        return Typed(text, refusal=f", and as Python: {type(error).__name__}: {error}")
    return Typed(text, value, f": it is a {class_name(type(value))}")


def means_all(source: Source, target: Typed) -> bool:
    """Whether all of the checkpoint is meant: by nothing, or by the converter, say `self`."""
    converter = source.conversion.model
    return not target.text or (converter is not None and target.value is converter)


def matches(path: str, pattern: str) -> bool:
    """Whether *path* is meant by *pattern*, whole or from some component on; * crosses dots."""
    if _GLOB.search(pattern):
        return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"*.{pattern}")
    return path == pattern or path.endswith(f".{pattern}")


def means_tensor(glob: str, name: str) -> bool:
    """Whether *glob* means the tensor of that name, or a module's that it is below of."""
    return matches(name, glob) or matches(name, f"{glob}.*")


def matching_modules(held: Held, target: Typed) -> list[tuple[str, Any]]:
    """Modules of *held* by path or glob, each once. Raises UsageError for none."""
    found: dict[int, tuple[str, Any]] = {}
    chosen = held.chooses(target.text)
    for path, module in held.named():
        if path and chosen(path):
            found.setdefault(id(module), (path, module))
    if not found:
        raise UsageError(not_understood(target, "no module path", (p for p, _ in held.named())))
    return list(found.values())


def chosen_modules(dbg: ModPdb, text: str) -> list[tuple[str, Any]]:
    """(expression or path, module) of what *text* means: an expression, a path or a glob of
    paths; without one the modules that the frame holds.

    Raises UsageError where that is none, or a checkpoint.
    """
    target = typed(dbg, text)
    if target.module is not None:
        return [(text, target.module)]
    held = held_modules(dbg)
    if isinstance(held, Source):
        raise UsageError("a checkpoint's tensors are being converted here: there are no modules")
    say_where(dbg, held)
    return matching_modules(held, target) if text else list(held.roots)


def say_where(dbg: ModPdb, held: Held) -> None:
    """Name the frame that holds the modules where it is not the current one."""
    if held.where:
        names = ", ".join(name for name, _ in held.roots)
        dbg.message(f"{printable(names)}, {held.where}")


def not_understood(target: Typed, what: str, names: Iterable[str]) -> str:
    """Why *text* is neither an expression nor a name, with the names that come nearest."""
    import difflib

    text = target.text
    pool = list(dict.fromkeys(islice(names, 20_000)))
    near = difflib.get_close_matches(text, pool, n=2, cutoff=0.6)
    hint = f"; near: {', '.join(near)}" if near else ""
    if re.search(r"\s--?[a-zA-Z]", text):
        hint = "; options come before the target"
    elif not _PATH.fullmatch(text):
        hint = target.refusal
    return f"{text!r} is {what} here{hint}"


def split_target(text: str) -> tuple[str, str]:
    """``TARGET, INPUT`` at the first comma outside of brackets and strings."""
    depth = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.string in ("(", "[", "{"):
                depth += 1
            elif token.string in (")", "]", "}"):
                depth -= 1
            elif token.string == "," and depth == 0:
                column = token.start[1]
                return text[:column].strip(), text[column + 1 :].strip()
    except (tokenize.TokenError, SyntaxError):  # no Python: then no INPUT
        pass
    return text.strip(), ""


def complete_paths(dbg: ModPdb, text: str) -> Iterator[str]:
    """Module paths, or the checkpoint's tensor names, for Tab."""
    try:
        held = held_modules(dbg)
    except Exception:
        return
    if isinstance(held, Source):
        seen: set[str] = set()
        for tensor in islice(held.checkpoint.tensors, _COMPLETED):
            module = tensor.name.rpartition(".")[0]
            for each in (module, tensor.name):
                if each and each not in seen:
                    seen.add(each)
                    yield each
        return
    for path, _ in islice(held.named(), _COMPLETED):
        if path:
            yield path
