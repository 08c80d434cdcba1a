"""Which .modpdbrc files apply, what they hold, and the part of them that modpdb writes."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

NAME = ".modpdbrc"
BEGIN = "# -- breakpoints, from save-breaks: it replaces what stands up to the end mark --"
END = "# -- end of save-breaks --"


class RcLine(str):
    """A debugger command that remembers where it was written."""

    where: str = ""

    @classmethod
    def at(cls, text: str, where: str) -> RcLine:
        line = cls(text)
        line.where = where
        return line


class RcFiles(NamedTuple):
    """The commands to run, and a sentence for each file that was read or refused."""

    lines: tuple[RcLine, ...] = ()
    loaded: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def read_rc_files(explicit: str | None = None) -> RcFiles:
    """``~/.modpdbrc``, then ``./.modpdbrc``; only *explicit* where one is named.

    A missing default file is nothing; a missing *explicit* raises OSError.
    """
    if explicit is not None:
        return RcFiles(_lines(Path(explicit)), (explicit,))
    lines: list[RcLine] = []
    loaded, refused = [], []
    for file in _default_files():
        try:
            problem = why_untrusted(file)
            if problem:
                refused.append(f"{_short(file)} not run: {problem}")
                continue
            lines += _lines(file)
            loaded.append(_short(file))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            refused.append(f"{_short(file)} not run: {error}")
    return RcFiles(tuple(lines), tuple(loaded), tuple(refused))


def _default_files() -> list[Path]:
    home, here = Path(os.path.expanduser("~")) / NAME, Path.cwd() / NAME
    try:
        same = os.path.samefile(home, here)
    except OSError:
        same = home == here
    return [home] if same else [home, here]


def _short(file: Path) -> str:
    home = os.path.expanduser("~")
    if file.parent == Path(home):
        return f"~/{file.name}"
    return f"./{file.name}" if file.parent == Path.cwd() else str(file)


def _lines(file: Path) -> tuple[RcLine, ...]:
    text = file.read_text(encoding="utf-8")
    return tuple(
        RcLine.at(line.strip(), f"{_short(file)}:{number}")
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#")
    )


def why_untrusted(file: Path) -> str | None:
    """Why commands from *file* must not be run as the user, None where they may be.

    A repository that was unpacked or shared could hold a .modpdbrc: it is Python code.
    """
    found = file.stat()
    if found.st_uid not in (os.getuid(), 0):
        return f"it belongs to {_user(found.st_uid)}, neither to you nor to root"
    if found.st_mode & stat.S_IWOTH:
        return f"everybody can write it (mode {stat.S_IMODE(found.st_mode):o}); chmod go-w it"
    if found.st_mode & stat.S_IWGRP and not _own_group(found.st_gid):
        return (
            f"the group {_group(found.st_gid)} can write it "
            f"(mode {stat.S_IMODE(found.st_mode):o}); chmod g-w it"
        )
    return None


def _own_group(gid: int) -> bool:
    """Whether the group is the user's own: their primary one, with nobody else in it."""
    if gid != os.getgid():
        return False
    name = _user(os.getuid())
    try:
        members = grp.getgrgid(gid).gr_mem
    except KeyError:
        members = []
    sharing = [each.pw_name for each in pwd.getpwall() if each.pw_gid == gid]
    return not {*members, *sharing} - {name}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"{gid}"


def replace_block(file: Path, lines: Sequence[str]) -> None:
    """Put *lines* between our two marks in *file*, in place of what stands there or at its end;
    with no lines the marks go too.

    A new file can be read and written by its user only. Raises OSError, and ValueError for a
    file that is not text, is Python source, or whose marks are no pair; the file is then as it
    was.
    """
    file = Path(os.path.realpath(file))  # a link stays one
    try:
        old, mode = file.read_bytes().decode(), stat.S_IMODE(file.stat().st_mode)
    except FileNotFoundError:
        if not lines:
            return
        old, mode = "", 0o600
    else:
        if file.suffix == ".py":
            raise ValueError("it is Python source, where debugger commands would be errors")
    kept = old.splitlines(keepends=True)
    marks = [number for number, line in enumerate(kept) if line.strip() in (BEGIN, END)]
    if marks and [kept[number].strip() for number in marks] != [BEGIN, END]:
        raise ValueError(f"it has not one line {BEGIN!r} with one {END!r} below")
    if not marks and kept and not kept[-1].endswith("\n"):
        kept[-1] += "\n"
    start, end = (marks[0], marks[1] + 1) if marks else (len(kept), len(kept))
    kept[start:end] = [f"{line}\n" for line in (BEGIN, *lines, END)] if lines else []
    _write(file, "".join(kept), mode)


def _write(file: Path, text: str, mode: int) -> None:
    """All of *text* or nothing."""
    import tempfile  # 3 ms, for those who save

    number, name = tempfile.mkstemp(prefix=file.name, dir=file.parent)
    try:
        with open(number, "wb") as stream:
            os.fchmod(number, mode)
            stream.write(text.encode())
            stream.flush()
            os.fsync(number)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise
