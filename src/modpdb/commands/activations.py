"""`record`, `activations`, `compare-runs`: what modules took and gave while they ran."""

from __future__ import annotations

import atexit
import os
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import complete_paths, matches
from modpdb.probes._torch import torch_or_none
from modpdb.views.text import plural, printable, size

# Probes are imported where they are used: the way to the first prompt is short.

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.probes.recorder import Recorder
    from modpdb.probes.recording import Recording
    from modpdb.probes.recording_file import RecordingWriter, SavedValues

_KEPT = 8  # recordings in memory
_SUFFIX = ".safetensors"


@dataclass(slots=True)
class _Running:
    """What is being recorded."""

    recorder: Recorder
    glob: str
    writer: RecordingWriter | None
    dbg: ModPdb
    searches: list[Any] = field(default_factory=list)
    waits: bool = False  # for torch to be imported

    @property
    def recording(self) -> Recording:
        return self.recorder.recording

    def begin(self) -> None:
        """Now, or where torch is not imported yet with the first module that is called."""
        if torch_or_none() is not None:
            self.recorder.start()
            return
        from modpdb.commands.module_calls import MODULE_CALL

        self.waits = True
        self.searches.append(
            self.dbg.locator.search(
                MODULE_CALL, lambda code: self.dbg.engine.watch(code, self._called)
            )
        )

    def _called(self, frame: types.FrameType) -> bool:
        """A module is called; torch looks for hooks after that."""
        if self.waits:
            self.waits = False
            self.recorder.start()
        self.dbg.engine.unwatch(self._called)
        return False

    def end(self) -> None:
        """Take the hooks off, and save what is to be saved. RecordingError where it cannot be."""
        self.recorder.stop()
        self.waits = False
        if self.searches:
            self.dbg.engine.unwatch(self.recorder.returned)
            self.dbg.engine.unwatch(self._called)
            for each in self.searches:
                self.dbg.locator.forget(each)
        if self.writer is not None:
            if self.writer.failure:
                self.recording.problems.append(self.writer.failure)
            self.writer.finish(self.recording)


class _Runs:
    """The recordings of this process: hooks for all modules can be one debugger's only."""

    def __init__(self) -> None:
        self.running: _Running | None = None
        self.kept: list[Recording] = []
        self.made = 0
        self._prepared = False

    def begin(self, running: _Running) -> None:
        if not self._prepared:
            self._prepared = True
            atexit.register(self._at_exit)
            os.register_at_fork(after_in_child=self._forked)
        self.running = running
        self.made += 1
        running.begin()

    def end(self) -> _Running:
        running = self.running
        assert running is not None
        self.running = None
        self.kept = [*self.kept, running.recording][-_KEPT:]
        running.end()
        for each in self.kept[:-1]:
            if each.file == running.recording.file:
                each.file = ""  # written over, by --force
        return running

    def _at_exit(self) -> None:
        from modpdb.probes.recording_file import RecordingError

        if self.running is None:
            return
        try:
            ended = self.end()
        except RecordingError as error:
            print(printable(f"modpdb: the recording is lost: {error}"), file=sys.stderr)
            return
        if ended.writer is not None:
            print(printable(f"modpdb: {_said_at_end(ended)}"), file=sys.stderr)

    def _forked(self) -> None:
        """The child records nothing: the file is its parent's."""
        if self.running is not None:
            self.running.recorder.stop()
            self.running = None


_RUNS = _Runs()


# -- record --------------------------------------------------------------------------------------


@command(
    "record",
    options={"--values": "", "--calls": "NAME,NAME…", "--no-stats": "", "--force": ""},
    options_anywhere=True,
    completes=complete_paths,
)
def record(dbg: ModPdb, arguments: Arguments) -> None:
    """record [GLOB] [FILE.safetensors] [--values] [--calls NAME,NAME…]    record stop

    Note each module's inputs and outputs while it runs: shape, dtype, statistics, in call order.

    From now on, in the program and at this prompt, until `record stop`, which says what was
    noted; `activations` shows it. GLOB chooses modules by path (layers.*.mlp). With FILE it is
    saved there, at the program's end if not stopped before; --values adds every value, streamed
    to disk, --force overwrites. --calls notes what functions return, named as for `break`
    (apply_rotary_pos_emb), in the program and in what run-model and debug run. --no-stats leaves
    the statistics out. `record` alone starts, or says what is being recorded.

    Nothing is put on the modules: torch's global hooks are used, which run before a module's own.
    Of a compiled or scripted module only the call itself is seen. Tensors in tuples, lists, dicts
    and dataclasses are noted; other objects, such as a key and value cache, are not looked into.
    """
    if arguments.target == "stop" and not arguments.options:
        _stop(dbg)
    elif _RUNS.running is not None:
        if arguments.target or arguments.options:
            raise UsageError("a recording is under way already: `record stop` ends it")
        dbg.message(printable(_said(_RUNS.running)))
    else:
        _start(dbg, arguments)


def _start(dbg: ModPdb, arguments: Arguments) -> None:
    glob, path = _glob_and_file(arguments.target)
    values = bool(arguments.options.get("--values"))
    if values and path is None:
        raise UsageError(f"--values needs a file to stream them to: record --values FILE{_SUFFIX}")
    from modpdb.probes.recorder import Recorder
    from modpdb.probes.recording import Recording
    from modpdb.probes.recording_file import RecordingError, RecordingWriter

    names = [name for name in (arguments.text("--calls") or "").split(",") if name]
    try:
        specs = [dbg.spec_of(name) for name in names]
        force = bool(arguments.options.get("--force"))
        writer = RecordingWriter(path, values=values, force=force) if path is not None else None
    except (ValueError, RecordingError) as error:
        raise UsageError(str(error)) from None
    what = f"modules {glob}" if glob else "every module"
    what += f" and what {', '.join(names)} returned" if names else ""
    recorder = Recorder(
        Recording(str(_RUNS.made + 1), what),
        lambda root, path: not glob or glob == root or _meant(root, path, glob),
        stats=not arguments.options.get("--no-stats"),
        store=writer.store if writer is not None and values else None,
    )
    running = _Running(recorder, glob, writer, dbg)
    _RUNS.begin(running)
    for spec in specs:
        running.searches.append(
            dbg.locator.search(
                spec, lambda code: dbg.engine.watch_return(code, recorder.returned, looks=True)
            )
        )
    dbg.settle()
    dbg.message(printable(f"{_said(running)}; `record stop` ends it"))


def _stop(dbg: ModPdb) -> None:
    from modpdb.probes.recording_file import RecordingError

    if _RUNS.running is None:
        raise UsageError("nothing is being recorded; `record` starts")
    try:
        ended = _RUNS.end()
    except RecordingError as error:
        raise UsageError(f"it is kept in memory only: {error}") from None
    finally:
        dbg.settle()
    dbg.message(printable(_said_at_end(ended)))
    for problem in ended.recording.problems:
        dbg.message(printable(f"while recording: {problem}"))


def _said(running: _Running) -> str:
    """What is being recorded, and how much there is so far."""
    recording = running.recording
    to = f", to {running.writer.path}" if running.writer is not None else ""
    values = " with values" if running.recorder.stores else ""
    far = f": {_counts(recording)} so far" if recording.calls else ""
    far = ", as soon as torch is imported" if running.waits else far
    return f"recording {recording.name}, {recording.what}{values}{to}{far}"


def _said_at_end(ended: _Running) -> str:
    recording = ended.recording
    if not recording.calls:
        passed = ended.recorder.passed_by()
        if passed:
            many = f"{plural(len(passed), 'other module')} ran, such as {passed[-1]}"
            return f"nothing recorded: no module that ran is meant by {ended.glob!r}; {many}"
        return "nothing recorded: no module was called"
    words = f"recorded {_counts(recording)}"
    if recording.left_out:
        words += f"; {recording.left_out:,} later calls were not kept"
    if ended.writer is not None:
        words += f", {size(ended.writer.bytes)} of values" if ended.recorder.stores else ""
        words += f", in {ended.writer.path}"
    return f"{words}; `activations` shows it"


def _counts(recording: Recording) -> str:
    return f"{plural(len(recording.calls), 'call')} of {plural(recording.modules(), 'module')}"


def _glob_and_file(text: str) -> tuple[str, Path | None]:
    """``[GLOB] [FILE]``: a file ends in .safetensors."""
    import shlex

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text!r}: {error}") from None
    files = [word for word in words if word.endswith(_SUFFIX)]
    globs = [word for word in words if not word.endswith(_SUFFIX)]
    odd = next((word for word in globs if os.sep in word), None)
    if odd is not None:
        raise UsageError(f"{odd!r}: a recording's file ends in {_SUFFIX}")
    if len(files) > 1 or len(globs) > 1:
        raise UsageError(f"{text!r}: expected at most one glob of paths and one file")
    path = Path(os.path.abspath(os.path.expanduser(files[0]))) if files else None
    return globs[0] if globs else "", path


def _meant(root: str, path: str, glob: str) -> bool:
    return matches(f"{root}.{path}" if path else root, glob)


# -- activations ---------------------------------------------------------------------------------


def _run_names(dbg: ModPdb, text: str) -> Iterable[str]:
    yield from ("last", *(each.name for each in _RUNS.kept))


@command(
    "activations",
    "acts",
    options={"--top": "N", "--inputs": "", "--unfold": "", "--of": "RUN"},
    needs_frame=False,
    options_anywhere=True,
    completes=complete_paths,
)
def activations(dbg: ModPdb, arguments: Arguments) -> None:
    """activations [--top N] [--inputs] [--unfold] [--of RUN] [GLOB]

    What was recorded: where NaN or Inf begins, where the scale jumps, each module's output.

    Modules whose paths differ in their numbers are one row, in the order in which they ran: the
    first output's shape, rms (the root of the mean square; least…greatest of the row's calls)
    and greatest absolute value. Bars show how the rms goes from layer to layer; ×38 at 4 says
    that it grew to 38 times the layer before. --unfold gives each call its row, --inputs adds
    inputs and further outputs, --top N lists the N tensors with the greatest values. GLOB chooses
    modules by path; RUN is a recording's number, `last` or a FILE.
    """
    from modpdb.probes.activations import passes
    from modpdb.views import activations as views

    recording, _ = _run(arguments.text("--of") or "")
    glob = arguments.target
    calls = [c for c in recording.calls if not glob or _meant(c.root, c.path, glob)]
    if glob and not calls:
        raise UsageError(_no_such_path(recording, glob))
    if not calls:
        raise UsageError(f"recording {recording.name} has no calls: no module ran")
    inputs = bool(arguments.options.get("--inputs"))
    most = arguments.number("--top")
    if most is not None:
        dbg.show(views.top(recording, calls, most, inputs=inputs))
        return
    chosen = {call.number for call in calls}
    unfold = bool(arguments.options.get("--unfold"))
    found = passes(recording, lambda call: call.number in chosen, alone=unfold)
    dbg.show(views.activations(recording, found, calls, inputs=inputs))


def _no_such_path(recording: Recording, glob: str) -> str:
    import difflib

    labels = list(dict.fromkeys(recording.label(call) for call in recording.calls))
    near = difflib.get_close_matches(glob, labels, n=2, cutoff=0.6)
    hint = f"; near: {', '.join(near)}" if near else ""
    return f"{glob!r} is no path in recording {recording.name}{hint}"


def _run(name: str) -> tuple[Recording, SavedValues | None]:
    """The recording of that number, the last one, or a file's, with its values where it is one."""
    from modpdb.probes.recording_file import RecordingError, read_recording

    running = [_RUNS.running.recording] if _RUNS.running is not None else []
    known = [*_RUNS.kept, *running]
    if name in ("", "last"):
        if not known:
            raise UsageError("nothing is recorded yet; `record` starts")
        return _with_values(known[-1])
    found = next((each for each in known if each.name == name), None)
    if found is not None:
        return _with_values(found)
    path = Path(os.path.expanduser(name))
    if not path.exists():
        there = ", ".join(each.name for each in known) or "none"
        raise UsageError(f"{name!r} is no recording ({there} in memory) and no file")
    try:
        return read_recording(path)
    except RecordingError as error:
        raise UsageError(str(error)) from None


def _with_values(recording: Recording) -> tuple[Recording, SavedValues | None]:
    """Of one that is saved, the values in its file; none where that cannot be read any more."""
    from modpdb.probes.recording_file import RecordingError, read_recording

    if not recording.file:
        return recording, None
    try:
        read, values = read_recording(Path(recording.file))
    except RecordingError:
        return recording, None
    # Another may have been written over it.
    return recording, values if read.calls == recording.calls else None


# -- compare-runs --------------------------------------------------------------------------------


@command(
    "compare-runs", options={"--all": "", "--unfold": ""}, needs_frame=False, completes=_run_names
)
def compare_runs(dbg: ModPdb, arguments: Arguments) -> None:
    """compare-runs [--all] [--unfold] A, B

    Two recordings side by side, by module path and number of the call: where they part first.

    A and B are numbers of recordings, `last`, or FILEs. What differs is listed, with --all the rest
    as well, alike modules in one row unless --unfold. Where both have values the error is the
    NMSE, Σ(a-b)²/Σa²; else statistics are compared, which proves less and is marked. What
    rounding explains depends on the dtype: 1e-10 of f32, 2e-05 of f16, 9e-04 of bf16.
    """
    from modpdb.probes import run_comparison as probe
    from modpdb.probes._torch import torch_or_none
    from modpdb.views.run_comparison import run_comparison

    first, _, second = (part.strip() for part in arguments.target.partition(","))
    if not first or not second:
        raise UsageError("compare-runs takes two recordings: compare-runs A, B")
    (a, mine), (b, theirs) = _run(first), _run(second)
    if torch_or_none() is None:
        mine = theirs = None
    found = probe.compare_runs(a, b, (mine, theirs))
    options = arguments.options
    every, unfold = bool(options.get("--all")), bool(options.get("--unfold"))
    dbg.show(run_comparison(found, every=every, unfold=unfold))
