"""The language of the prompt: is a line one of our commands, or Python, or pdb's?

Needed on every version. Up to 3.12 pdb reads `linear-path m` as `linear` with the argument
`-path m`; pdbpp's count prefix makes `10linear-path` into `linear`; and pdbpp lets a variable
called `params` win over the bare command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import dataclass

from modpdb.commands.registry import is_option

_NAME = re.compile(r"(?P<count>\d*)(?P<name>[A-Za-z][\w-]*)")
_OPERATOR = re.compile(
    r"(?: [-+*/%@&|^<>.,\[(=] | == | != | (?:if|in|is|and|or|not)\b )", re.VERBOSE
)

# Set off by spaces: `b *.modify_tensors`, `b @blk.*`, `l .`, `p -x` are commands of pdb.
_SPACED_OPERATOR = re.compile(
    r"""\s+ (?: \*\* | // | << | >> | [=!<>]= | [-+*/%@&|^<>]
            | if | in | is | and | or | not\s+in ) \s""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Typed:
    """A line that is one of our commands, or, with no name, certainly Python."""

    name: str | None
    argument: str = ""
    count: int | None = None


PYTHON = Typed(None)


def recognise(line: str, commands: Container[str], is_bound: Callable[[str], bool]) -> Typed | None:
    """What *line* is; None leaves it to pdb and pdbpp.

    ``!!name`` forces the command, ``!name`` is Python, ``name?`` asks for help. A name is the
    command when typed bare or before a target; it is Python before ``=``, ``[``, ``.`` or ``(``
    that touch it, and before an operator after a space when a variable of that name exists.
    """
    text = line.strip()
    forced = text.startswith("!!")
    if forced:
        text = text[2:].lstrip()
    match = _NAME.match(text)
    if match is None or text.endswith("?"):
        return None
    name, rest = match["name"], text[match.end() :]
    if name not in commands:
        # `10linear-pth x`: pdbpp would take the digits off and run `linear`, or `l`.
        return PYTHON if match["count"] and "-" in name else None
    argument = rest.strip()
    if not forced and _is_python(name, rest, is_bound):
        return PYTHON
    return Typed(name, argument, int(match["count"]) if match["count"] else None)


def recognise_pdbs(
    line: str, is_command: Callable[[str], bool], is_bound: Callable[[str], bool]
) -> Typed | None:
    """What *line* is, where a variable has the name of the command of pdb's that it begins with;
    None leaves it to pdbpp.

    pdbpp (0.12) takes the bare name for the variable, so that after ``b, n, c, h, w = x.shape``
    nobody could step, and ``n + 1`` for the command.
    """
    text = line.strip()
    match = _NAME.match(text)
    if match is None or not is_command(text[: match.end()]) or not is_bound(match["name"]):
        return None
    rest = text[match.end() :]
    if not rest:
        return Typed(match["name"])
    return PYTHON if _SPACED_OPERATOR.match(rest) else None


def _is_python(name: str, rest: str, is_bound: Callable[[str], bool]) -> bool:
    argument = rest.strip()
    if not argument:
        return False
    if re.match(r"=(?!=)", argument):
        return True
    if not rest[0].isspace():  # name[0] name.x name(…) name+1 name,
        return True
    first = argument.split(maxsplit=1)[0]
    return not is_option(first) and bool(_OPERATOR.match(argument)) and is_bound(name)
