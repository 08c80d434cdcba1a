"""`explain`: what the exception at hand means in this conversion, and what to type next."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import whole_stack

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.explanations.explanation import Ahead, Caught, Explanation


@command("explain")
def explain(dbg: ModPdb, arguments: Arguments) -> None:
    """explain

    What the exception at hand means in this conversion: why it was raised, what speaks for that,
    and what to type or to paste next.

    It comes by itself, in short, where an exception is caught. Causes and names that fit what was
    seen and are not proved by it are called guesses.
    """
    from modpdb.probes._static import class_name
    from modpdb.views.explain import whole

    if arguments.target:
        raise UsageError(f"explain takes no argument, not {arguments.target!r}")
    error = _at_hand(dbg)
    if error is None:
        raise UsageError(
            "no exception at hand: explain is for post-mortem, and for a stop in an `except`"
        )
    found = _explanation(dbg, error, asked=True)
    if found is None:
        raise UsageError(
            f"modpdb knows nothing of this {class_name(type(error))}: it is none of the failures "
            "of conversions that it can explain"
        )
    dbg.show(whole(found))


def explain_unasked(dbg: ModPdb, error: BaseException) -> None:
    """In short, what is known of *error*, which was caught; nothing where that is nothing.

    It must not come between an exception and the prompt, whatever happens here.
    """
    try:
        found = _explanation(dbg, error, asked=False)
        if found is not None:
            from modpdb.views.explain import Brief

            dbg.show(Brief(found))
    except KeyboardInterrupt:
        dbg.message("explain: ended; type it to have it again")
    except Exception as problem:
        if os.environ.get("MODPDB_DEBUG", "0") not in ("", "0"):
            dbg.report(problem, "explain")


def _at_hand(dbg: ModPdb) -> BaseException | None:
    """What post-mortem caught, else what is being handled where the program has stopped."""
    if dbg.caught is not None:
        return dbg.caught
    here = dbg.curframe_locals.get("__exception__")  # pdb's, at a stop on an exception
    if type(here) is tuple and len(here) == 2 and isinstance(here[1], BaseException):
        return here[1]
    return sys.exc_info()[1]


class _Slow(Exception):
    """A dry run that somebody who asked for nothing would have to wait for."""


def _explanation(dbg: ModPdb, error: BaseException, *, asked: bool) -> Explanation | None:
    """What is known of *error*. Where names are not mapped a dry run of the rest tells of all;
    unless *asked* it may take no more than a second."""
    from modpdb.probes.explanations import caught_of, explanation_of

    held = {id(dbg.curframe): dbg.curframe_locals} if dbg.curframe is not None else {}
    caught = caught_of(error, held)
    found = explanation_of(caught, provenance=dbg.provenance)
    if found is not None and found.kind == "unmapped":
        return explanation_of(caught, _ahead(dbg, caught, asked=asked), dbg.provenance)
    return found


def _ahead(dbg: ModPdb, caught: list[Caught], *, asked: bool) -> Ahead:
    from modpdb.probes.dry_run import dry_run
    from modpdb.probes.explanations.explanation import Ahead
    from modpdb.probes.files import CheckpointError
    from modpdb.probes.forked import ForkError

    def slow() -> None:
        if not asked:
            raise _Slow
        dbg.message("the rest of the conversion is run dry, nothing is written (Ctrl-C ends that)")

    conversion = next(each.conversion for each in caught if each.conversion is not None)
    frames = whole_stack(dbg)
    try:
        found = dry_run(conversion, frames, slow, only_tensors=True)
    except _Slow:
        return Ahead((), False, "`explain` waits for a dry run that tells of all names")
    except KeyboardInterrupt:
        return Ahead((), False, "the dry run was ended")
    except (ForkError, CheckpointError) as error:
        return Ahead((), False, f"no dry run: {error}")
    names = tuple(each.tensor for each in found.misses if each.kind == "unmapped")
    # What rests on a number that was made up for the dry run is no metadata of the conversion's.
    told = {each.key: each.value for each in found.metadata if each.key not in found.assumed}
    return Ahead(names, found.exact, found.why, told)
