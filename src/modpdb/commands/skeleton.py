"""`skeleton`: the transformers model of a checkpoint, without its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import frames_outwards

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.skeleton import Skeleton

_BUILT: dict[tuple[str, int, bool], Skeleton] = {}
"""The session's skeletons, by folder, time of the config's last change, and trust."""


@command(
    "skeleton",
    options={"--trust-remote-code": "", "--unfold": ""},
    file_after="",
    options_anywhere=True,
)
def skeleton(dbg: ModPdb, arguments: Arguments) -> None:
    """skeleton [--trust-remote-code] [--unfold] [PATH]

    The transformers model that a checkpoint's config describes, on the meta device.

    Its modules, as `modules` shows them, then where checkpoint and parameters have other names:
    transformers renames, stacks and splits tensors while it loads them; then parameters without
    a tensor and tensors without a parameter. PATH is the checkpoint's folder; without it the one
    that is being converted. No weight is read. It is built in a forked copy of the process, so
    that nothing is imported here; code that lies with the checkpoint is run only with
    --trust-remote-code, and there. `modules --skeleton` shows the tree alone.
    """
    from modpdb.views.skeleton import skeleton as view

    trust = bool(arguments.options.get("--trust-remote-code"))
    found = skeleton_of(dbg, arguments.target, trust)
    dbg.show(view(found, unfold=bool(arguments.options.get("--unfold"))))


def skeleton_of(dbg: ModPdb, path: str, trust: bool = False) -> Skeleton:
    """The skeleton of the checkpoint at *path*, else of the one being converted.

    Raises UsageError where there is none.
    """
    from modpdb.probes.checkpoint_files import open_checkpoint
    from modpdb.probes.checkpoints import CheckpointError
    from modpdb.probes.skeleton import SkeletonError, build_skeleton

    folder = _folder(dbg, path)
    try:
        changed = os.stat(folder / "config.json").st_mtime_ns
    except OSError:
        changed = 0  # build_skeleton says what is wrong
    key = (str(folder.absolute()), changed, trust)
    if key not in _BUILT:
        try:
            tensors = open_checkpoint(folder).tensors
        except CheckpointError:  # a config alone
            tensors = ()
        try:
            _BUILT[key] = build_skeleton(
                folder,
                tensors,
                trust_remote_code=trust,
                slow=lambda: dbg.message("building it in a forked copy of the process …"),
            )
        except SkeletonError as error:
            raise UsageError(str(error)) from None
    return _BUILT[key]


def _folder(dbg: ModPdb, path: str) -> Path:
    if path:
        given = Path(path).expanduser()
        return given if given.is_dir() or not given.exists() else given.parent
    from modpdb.probes.conversion import find_conversion

    conversion = find_conversion([variables for _, variables in frames_outwards(dbg)])
    if conversion is None or conversion.dir_model is None:
        raise UsageError(
            "no conversion is under way here: skeleton PATH takes a checkpoint's folder"
        )
    return conversion.dir_model
