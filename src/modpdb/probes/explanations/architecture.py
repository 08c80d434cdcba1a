"""`Model X is not supported`, and a folder that is none."""

from __future__ import annotations

import ast
import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modpdb.probes._static import instance_dict
from modpdb.probes.explanations.explanation import (
    Caught,
    Cause,
    Explanation,
    Frame,
    Row,
    Step,
    Table,
    command_again,
    is_path,
    quoted,
    raised,
    script_command,
    short_place,
)

_MAPS = {"TEXT_MODEL_MAP": "text model", "MMPROJ_MODEL_MAP": "mmproj"}
_SOURCE_LIMIT = 4_000_000  # bytes of a source file that is read
_FILES = 1_000


@dataclass(frozen=True, slots=True)
class Registered:
    """A name that a class's decorator registers: `@ModelBase.register("LlamaForCausalLM")`."""

    name: str
    class_name: str
    file: str
    line: int
    base: str


@dataclass(frozen=True, slots=True)
class Sources:
    """What the script's sources register; *maps* are the dicts of conversion/__init__.py, each
    with the file and the line that it begins at, none in the versions of a single file."""

    registered: tuple[Registered, ...]
    maps: dict[str, tuple[dict[str, str], str, int]]
    base: str = "ModelBase"  # whose `register` decorates them, `Model` in 2024


def unsupported(caught: Caught) -> Explanation | None:
    """`Model X is not supported`: logged, then sys.exit(1)."""
    frame = next(_asking(caught), None)
    if frame is None or not raised(caught, SystemExit):
        return None
    variables = frame.variables
    arch: Any = variables.get("model_architecture", variables.get("model_arch"))
    if type(arch) is not str or "model_class" in variables:
        return None
    mmproj = instance_dict(variables.get("args")).get("mmproj") is True
    sources = read_sources(Path(frame.file))
    wanted = "MMPROJ_MODEL_MAP" if mmproj else "TEXT_MODEL_MAP"
    names, file, line = sources.maps.get(wanted, ({}, "", 0))
    mine = [each for each in sources.registered if each.name == arch]
    kind = " for --mmproj" if mmproj else ""
    says = f"the script knows no architecture {arch}{kind}: config.json names it in `architectures`"
    other = _in_other_map(sources, wanted, arch)
    if mine and sources.maps and not other:
        causes, steps = _not_in_map(arch, mine[0], wanted, file, line)
    elif other:
        causes, steps = _other_kind(arch, other)
    else:
        known = names or {each.name: "" for each in sources.registered}
        causes, steps = _near(arch, known, sources, mmproj)
    rows = tuple(Row(each.class_name, (short_place(each.file, each.line),)) for each in mine)
    tables = (Table(f"{arch} is registered by", rows, brief=True),) if rows else ()
    return Explanation("unsupported", says, causes, tables, steps, frame.place)


def _asking(caught: Caught) -> Iterator[Frame]:
    for frame in caught.frames:
        if "model_architecture" in frame.variables or "model_arch" in frame.variables:
            yield frame


def _not_in_map(
    arch: str, mine: Registered, name: str, file: str, line: int
) -> tuple[tuple[Cause, ...], tuple[Step, ...]]:
    module = Path(mine.file).stem
    cause = Cause(
        f"{mine.class_name} in {module}.py registers it, and {name} of conversion/__init__.py has "
        "no line for it, so that the file is never loaded"
    )
    paste = f'    {quoted(arch)}: "{module}",'
    return (cause,), (Step(f"a line in {name}", (paste,), file, line + 1),)


def _other_kind(arch: str, other: str) -> tuple[tuple[Cause, ...], tuple[Step, ...]]:
    if other == "MMPROJ_MODEL_MAP":
        cause = f"{arch} is known as an encoder (mmproj) alone: its text model has no converter"
        return (Cause(cause),), (Step("convert the encoder", (command_again("--mmproj"),)),)
    cause = f"{arch} is known as a text model alone: its encoder has no converter"
    return (Cause(cause),), (Step("convert the text model: leave out --mmproj"),)


def _near(
    arch: str, known: dict[str, str], sources: Sources, mmproj: bool
) -> tuple[tuple[Cause, ...], tuple[Step, ...]]:
    near = difflib.get_close_matches(arch, known, n=3, cutoff=0.75)
    same = [each for each in known if each.lower() == arch.lower()]
    near = list(dict.fromkeys([*same, *near]))[:3]
    flags = ("--mmproj",) if mmproj else ()
    add = Step(
        f"a class of its own: `@{sources.base}.register({quoted(arch)})`"
        + (
            " in conversion/, and its line in the map of conversion/__init__.py"
            if sources.maps
            else ""
        )
    )
    if not near:
        causes = (Cause("no registered name is close: a newer llama.cpp may know it", guess=True),)
        listed = Step("what is known", (script_command("--print-supported-models", *flags),))
        return causes, (listed, add)
    typo = _ratio(arch, near[0]) >= 0.9
    words = f"{near[0]} is meant: the names are {_ratio(arch, near[0]):.0%} alike"
    if not typo:
        words = f"it is a relative of {' or '.join(near)}, which may or may not convert it"
    change = Step(
        "if so, in config.json" if typo else "to try it: in config.json",
        (f'  "architectures": ["{near[0]}"],',),
    )
    return (Cause(words, guess=True),), (change, add)


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()


def _in_other_map(sources: Sources, wanted: str, arch: str) -> str:
    mine = sources.maps.get(wanted)
    if mine is None or arch in mine[0]:
        return ""
    return next((name for name, (names, _, _) in sources.maps.items() if arch in names), "")


# -- the sources, read and never imported ---------------------------------------------------------


def read_sources(script: Path) -> Sources:
    """What *script* and the conversion/ beside it register; not of files that do not parse."""
    registered: list[Registered] = []
    maps: dict[str, tuple[dict[str, str], str, int]] = {}
    package = script.parent / "conversion"
    files = sorted(package.glob("*.py"))[:_FILES] if package.is_dir() else [script]
    for file in files:
        tree = _parsed(file)
        for node in tree.body if tree is not None else ():
            if isinstance(node, ast.ClassDef):
                registered += _registered(node, file)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                maps |= _map(node, file)
    return Sources(tuple(registered), maps, registered[0].base if registered else "ModelBase")


def _parsed(file: Path) -> ast.Module | None:
    try:
        if file.stat().st_size > _SOURCE_LIMIT:
            return None
        return ast.parse(file.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None


def _registered(node: ast.ClassDef, file: Path) -> Iterator[Registered]:
    for each in node.decorator_list:
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute):
            if each.func.attr != "register":
                continue
            base = ast.unparse(each.func.value)
            for name in each.args:
                if isinstance(name, ast.Constant) and type(name.value) is str:
                    yield Registered(name.value, node.name, str(file), node.lineno, base)


def _map(
    node: ast.AnnAssign | ast.Assign, file: Path
) -> dict[str, tuple[dict[str, str], str, int]]:
    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
    if not isinstance(target, ast.Name) or target.id not in _MAPS:
        return {}
    try:
        value = ast.literal_eval(node.value) if node.value is not None else {}
    except ValueError:
        return {}
    return {target.id: (value, str(file), node.lineno)} if type(value) is dict else {}


# -- a folder that is none ------------------------------------------------------------------------


def no_folder(caught: Caught) -> Explanation | None:
    """`X is not a directory`: a model id, or a path that is not there."""
    frame = next((f for f in caught.frames if is_path(f.variables.get("dir_model"))), None)
    if frame is None or not raised(caught, SystemExit) or frame.function != "main":
        return None
    folder = str(frame.variables["dir_model"])
    if os.path.isdir(folder) or "hparams" in frame.variables:
        return None
    options = instance_dict(frame.variables.get("args"))
    says = f"{folder} is not a folder"
    if os.path.exists(folder):
        cause = Cause("it is a file: the script takes the model's folder")
        step = Step("give the folder that it lies in", (str(Path(folder).parent),))
        return Explanation("no folder", says, (cause,), (), (step,), frame.place)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", folder) and not folder.startswith("."):
        cause = Cause(f"{folder} reads as the id of a model on Hugging Face", guess=True)
        steps = _of_id(folder, options)
        return Explanation("no folder", says, (cause,), (), steps, frame.place)
    near = difflib.get_close_matches(Path(folder).name, _beside(folder), n=2, cutoff=0.6)
    cause = Cause(f"there is nothing of that name; the working directory is {os.getcwd()}")
    steps = tuple(
        Step("a folder of nearly that name", (str(Path(folder).parent / each),)) for each in near
    )
    return Explanation("no folder", says, (cause,), (), steps, frame.place)


def _of_id(folder: str, options: dict[str, Any]) -> tuple[Step, ...]:
    down = Step("or bring it here first", (f"hf download {folder} --local-dir {folder}",))
    if "remote" not in options:
        return (
            Step("bring it here first: this version of the script has no --remote", down.paste),
        )
    remote = Step("convert it from there", (command_again("--remote"),))
    return remote, down


def _beside(folder: str) -> list[str]:
    try:
        return os.listdir(Path(folder).parent)
    except OSError:
        return []
