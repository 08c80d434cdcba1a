"""The preset's stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modpdb.commands.registry import Arguments, UsageError, command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modpdb.debugger import ModPdb
    from modpdb.presets.stages import Stages


def _stages(dbg: ModPdb) -> Stages:
    if dbg.stages is None:
        raise UsageError("no preset is on; start with --preset NAME (--list-presets shows them)")
    return dbg.stages


def _names(dbg: ModPdb, text: str) -> Iterable[str]:
    return dbg.stages.stages if dbg.stages else ()


@command("stages", needs_frame=False)
def stages(dbg: ModPdb, arguments: Arguments) -> None:
    """stages

    The preset's stages: which stop (●), which are passed, and when.

    The time is that of the first and the last call since the script began, in seconds; time
    spent at this prompt is not counted.
    """
    from modpdb.views.stages import StageRow, stage_table

    state = _stages(dbg)
    rows = [
        StageRow(
            name,
            stage.spec.says,
            passed=stage.calls,
            first=stage.first,
            last=stage.last,
            stops=stage.stops or stage.wanted,
            here=stage is state.at,
            found=stage.found,
        )
        for name, stage in state.stages.items()
    ]
    dbg.show(stage_table(state.preset.name, rows))


@command("stage", resumes=True, completes=_names)
def stage(dbg: ModPdb, arguments: Arguments) -> bool:
    """stage NAME

    Run on to the next call of a stage (`stages` lists them).
    """
    state = _stages(dbg)
    wanted = state.stages.get(arguments.target)
    if wanted is None:
        raise UsageError(
            f"{arguments.target!r} is no stage of preset {state.preset.name}; "
            f"there are {', '.join(state.stages)}"
        )
    if dbg.ended:
        raise UsageError("the program has ended: it cannot run on to a stage")
    for each in state.stages.values():
        each.wanted = each is wanted
    return bool(dbg.do_continue(""))
