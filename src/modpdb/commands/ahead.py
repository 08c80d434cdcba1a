"""`ahead`: what the rest of the conversion will come to."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from modpdb.commands.paths import reading
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import whole_stack

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.conversion import Conversion
    from modpdb.probes.coverage_findings import Coverage, Finding
    from modpdb.probes.dry_run import DryRun


@command("ahead", options={"--unfold": ""})
def ahead(dbg: ModPdb, arguments: Arguments) -> None:
    """ahead [--unfold]

    Everything that will stop this conversion and can be known now, found in a dry run.

    The converter itself runs in a forked copy of the process: all tensors, lazily, then the
    metadata and the tokenizer. A failure is noted and passed over, so that all come to light and
    not only the first; they are listed in the order in which the conversion would meet them.
    Then what llama.cpp's loader would miss (`coverage` says more of that), what nothing is made of,
    and what would be written. Nothing is written, and the process
    at hand stays as it is. Values are not looked at: no tensor's data is read unless the
    converter does so to decide.

    From stage init on. At `init` and `tensors` what is at hand is run; later a new converter,
    made by the script's own call, from the start. Under --no-lazy, or where the process cannot be
    forked, only the name map is asked, and the answer says so. In post-mortem
    no next steps are told that need a program that runs.
    """
    from modpdb.views.ahead import ahead as view

    if arguments.target:
        raise UsageError(f"ahead takes no target, not {arguments.target!r}; `map` takes a GLOB")
    conversion, found = look_ahead(dbg)
    unfold = bool(arguments.options.get("--unfold"))
    needed = _coverage(conversion, found)
    names = conversion.class_name, conversion.arch
    dbg.show(view(found, *names, needed, unfold=unfold, ended=dbg.ended))


def look_ahead(dbg: ModPdb, *, only_tensors: bool = False) -> tuple[Conversion, DryRun]:
    """The conversion at hand, and what it will come to. Raises UsageError."""
    from modpdb.probes.conversion import find_conversion
    from modpdb.probes.dry_run import dry_run
    from modpdb.probes.forked import ForkError

    frames = whole_stack(dbg)
    conversion = find_conversion([held for _, held in frames])
    if conversion is None or conversion.model is None:
        where = "the conversion has not come" if conversion else "there is no llama.cpp conversion"
        raise UsageError(f"{where} to its model class here; `stage tensors` runs on to where it is")
    try:
        found = reading(
            lambda: dry_run(
                conversion,
                frames,
                slow=lambda: dbg.message("running it dry in a forked copy of the process …"),
                only_tensors=only_tensors,
                seen=dbg.provenance,
            )
        )
    except ForkError as error:
        raise UsageError(f"no dry run: {error}") from None
    return conversion, found


def _coverage(conversion: Conversion, found: DryRun) -> Coverage | None:
    """What would be written against what llama.cpp's loader needs, without what is missing only
    because of a failure; None where that cannot be said."""
    from modpdb.probes.coverage import contents_coverage
    from modpdb.probes.gguf_contents import GGUFContents
    from modpdb.probes.tied_embeddings import conversion_tied

    failed = [miss.kind for miss in found.misses if not miss.tensor]
    if not found.exact or conversion.adapter is not None or "metadata" in failed:
        return None
    sure = tuple(each for each in found.metadata if each.key not in found.assumed)
    contents = GGUFContents("", sure, found.tensors)
    needed = contents_coverage(contents, sys.modules.get("gguf"), tied=conversion_tied(conversion))
    if needed is None:
        return None

    def by_itself(finding: Finding) -> bool:
        if "tokenizer" in failed and finding.name.startswith("tokenizer."):
            return False
        return not found.assumed or (finding.kind != "shape" and finding.name not in found.assumed)

    return replace(
        needed,
        findings=tuple(filter(by_itself, needed.findings)),
        unjudged=tuple(filter(by_itself, needed.unjudged)),
    )
