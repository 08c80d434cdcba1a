"""What an explanation is made of, and what recognisers are given. Plain data; live frames stay in
`Caught`."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from types import CodeType, TracebackType
from typing import Any

from modpdb.probes._static import class_name, instance_dict, is_a
from modpdb.probes.conversion import Conversion
from modpdb.probes.provenance import Provenance

# BaseException's own descriptors: a class may define the names anew.
_ARGS, _CAUSE, _CONTEXT, traceback_of = (
    BaseException.__dict__[name].__get__
    for name in ("args", "__cause__", "__context__", "__traceback__")
)
_FILENAME = OSError.__dict__["filename"].__get__
_CHAINED = 8  # exceptions behind one another that are looked at
_FRAMES = 400  # of a traceback: the innermost, as of one that ran out of stack


@dataclass(frozen=True, slots=True)
class Row:
    """A name, most often a tensor's, and words about it; names with equal words can be folded."""

    name: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """What was looked at: *head* says what the rows are. *brief*: worth showing unasked."""

    head: str
    rows: tuple[Row, ...]
    brief: bool = False


@dataclass(frozen=True, slots=True)
class Cause:
    """Why it happened. *guess*: it fits what was seen and is not proved by it."""

    words: str
    guess: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next, *paste* the text to type or to put into *file* at *line*."""

    words: str
    paste: tuple[str, ...] = ()
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a failure means: one sentence, its causes, the likeliest first, what speaks for them,
    and what to do.

    *kind* is a word for the failure. *where* is the place that raised it or asked for what is
    missing. *remark* says what could not be looked at.
    """

    kind: str
    says: str
    causes: tuple[Cause, ...]
    tables: tuple[Table, ...] = ()
    steps: tuple[Step, ...] = ()
    where: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What else will have no name, in the converter's order. *exact*: from a dry run of the rest;
    else by the name map alone, and *why* a dry run was not to be had. *metadata* is what the dry
    run would write."""

    unmapped: tuple[str, ...]
    exact: bool
    why: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A function that the exception went through, with its variables."""

    function: str
    qualname: str
    file: str
    line: int
    variables: Mapping[str, Any]
    parameters: tuple[str, ...] = ()  # those of its variables that it was called with

    @property
    def place(self) -> str:
        """`conversion/base.py:630 ModelBase.map_tensor_name`."""
        return f"{short_place(self.file, self.line)} {self.qualname}"


@dataclass(frozen=True, slots=True, eq=False)
class Caught:
    """An exception with the frames that it went through, the raising one first, and the
    conversion that they belong to."""

    error: BaseException
    frames: tuple[Frame, ...]
    conversion: Conversion | None
    ahead: Ahead | None = None
    provenance: Provenance | None = None

    @property
    def message(self) -> str:
        """What the exception says, "" where that is no plain text: its __str__ is not run."""
        found = arguments(self.error)
        return next((each for each in found if type(each) is str), "")

    def frame(self, *functions: str) -> Frame | None:
        """The innermost frame of a function of one of these names."""
        return next((each for each in self.frames if each.function in functions), None)

    def outer(self, function: str) -> Frame | None:
        """The innermost frame outside of the innermost ones of *function*."""
        return next((each for each in self.frames if each.function != function), None)

    @property
    def config(self) -> dict[Any, Any] | None:
        """The config as the converter or the script's main holds it."""
        if self.conversion is not None and self.conversion.hparams is not None:
            return self.conversion.hparams
        found = (frame.variables.get("hparams") for frame in self.frames)
        return next((each for each in found if is_a(each, dict)), None)


def arguments(error: BaseException) -> tuple[Any, ...]:
    return _ARGS(error)


def chain(error: BaseException) -> Iterator[BaseException]:
    """*error*, then those that it was raised from; of an exit also what was being handled.

    What else was being handled is often a way of asking: `except FileNotFoundError` where another
    tokenizer is tried.
    """
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen and len(seen) < _CHAINED:
        seen.add(id(now))
        yield now
        behind = _CAUSE(now)
        now = _CONTEXT(now) if behind is None and is_a(now, SystemExit) else behind


def frames_of(
    tb: TracebackType | None, variables: Mapping[int, Mapping[str, Any]]
) -> tuple[Frame, ...]:
    """The frames of a traceback, the raising one first. *variables*: of frames, by their id, whose
    variables are held by somebody already; reading them anew would undo what was assigned."""
    found = []
    while tb is not None:
        frame = tb.tb_frame
        found.append((frame, tb.tb_lineno))
        tb = tb.tb_next
    return tuple(
        Frame(
            frame.f_code.co_name,
            frame.f_code.co_qualname,
            frame.f_code.co_filename,
            line,
            variables.get(id(frame)) or frame.f_locals,
            _parameters(frame.f_code),
        )
        for frame, line in reversed(found[-_FRAMES:])
    )


def _parameters(code: CodeType) -> tuple[str, ...]:
    several = bool(code.co_flags & inspect.CO_VARARGS)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + several]


def short_place(file: str, line: int) -> str:
    """`conversion/base.py:630`, `convert_hf_to_gguf.py:236`: with the package that it lies in."""
    path = PurePath(file)
    inside = path.parent.name.isidentifier()
    return f"{path.parent.name}/{path.name}:{line}" if inside else f"{path.name}:{line}"


def raised(caught: Caught, *classes: type) -> bool:
    """Whether the exception is of one of *classes*; nothing of the exception's own is asked."""
    return any(is_a(caught.error, cls) for cls in classes)


def error_words(error: BaseException) -> str:
    """`ValueError: what it says`, of plain text only."""
    parts = arguments(error)
    if is_a(error, OSError) and len(parts) > 1:
        parts = (*parts[1:2], _FILENAME(error))
    said = ", ".join(str(each) for each in parts if type(each) in (str, int, float))
    return f"{class_name(type(error))}: {said}" if said else class_name(type(error))


def is_path(value: object) -> bool:
    return type(value) is str or is_a(value, PurePath)


def held(owner: object, name: str) -> Any:
    """What an object holds under *name*, None where it holds nothing: no property is run."""
    return instance_dict(owner).get(name)


def script_command(*options: str) -> str:
    """The script as it was called, without what it was given, with *options*: for the shell."""
    return " ".join(["python", shlex.quote(sys.argv[0]), *options])


def command_again(*options: str) -> str:
    """The script's whole command as it was typed, with *options* more."""
    return " ".join(["python", shlex.join(sys.argv), *options])


def quoted(text: str) -> str:
    """A name out of a checkpoint as a literal of Python's or JSON's, to be pasted."""
    return json.dumps(text)


def typed(command: str, *names: str) -> tuple[str, ...]:
    """*command* with *names*, to be typed at the prompt; nothing where a name is no plain word, as
    a checkpoint may call a tensor `x;;!…`."""
    if not all(re.fullmatch(r"[\w.*/@-]+", name) for name in names):
        return ()
    return (f"{command} {', '.join(names)}",)


def in_quotes(text: str) -> str:
    """What stands in the first quotes of a message."""
    found = re.search(r"'([^']*)'|\"([^\"]*)\"", text)
    return (found[1] or found[2] or "") if found else ""
