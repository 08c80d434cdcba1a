"""Runs a Launch: the target as __main__, its exit status, post-mortem."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import pkgutil
import runpy
import sys
import tokenize
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from modpdb.breakpoints.engine import debugger_at_work
from modpdb.cli import Launch
from modpdb.collector import collector_paused
from modpdb.commands.tensor_breaks import never_met
from modpdb.debugger import ModPdb
from modpdb.own_code import strip_traceback
from modpdb.plumbing import Plumbing
from modpdb.presets import GENERIC, Preset, PresetError, preset_for, preset_named
from modpdb.rcfile import read_rc_files
from modpdb.repairs import Quit


class CannotStart(Exception):
    """Why nothing was run, in one sentence."""


class _NotFound(Exception):
    """What runpy raises for us: an ImportError would be the module's own."""


class Target(NamedTuple):
    """Code to run as __main__, and the names that Python would give it.

    ``argument`` is the script's sys.argv[0].
    """

    code: types.CodeType
    names: dict[str, Any]
    argument: str


def run(launch: Launch) -> int | str | None:
    """Run *launch*; returns what sys.exit should be given."""
    try:
        return _run(launch)
    except (CannotStart, PresetError) as error:
        print(f"modpdb: {error}", file=sys.stderr)
        return 2


def _run(launch: Launch) -> int | str | None:
    with collector_paused():
        preset = _preset(launch)
        debugger = ModPdb(nosigint=True, readrc=False)
    debugger.on_eof = launch.on_eof
    kept_main = sys.modules["__main__"]
    try:
        try:
            target = _find_target(launch)
        except CannotStart:
            raise
        except SystemExit as error:  # of a package that -m imports
            return _exited(debugger, error)
        except BaseException as error:
            return _failed(debugger, error)
        debugger.mainpyfile = debugger.canonic(target.code.co_filename)
        debugger.locator.loaded("__main__", target.code)
        if preset is not None:
            with collector_paused():
                _set_up_stages(debugger, preset, launch)
        _read_commands(debugger, launch)
        sys.argv[:] = [target.argument, *launch.arguments]
        main = _main_module(target)
        with debugger.interrupts(), _breakpoints_open(debugger):
            return _run_main(debugger, target, main, stop=_stops_first(launch, preset))
    finally:
        debugger.leave()
        # The script's __main__ stays: atexit handlers and threads may need it. Ours lives on.
        sys.modules.setdefault("modpdb.__main__", kept_main)


def _stops_first(launch: Launch, preset: Preset | None) -> bool:
    """Whether to stop at the first line. A program of ours has nothing to see there."""
    if launch.program and preset is not None:
        return not preset.default and not launch.stops
    return not launch.stops


# -- what to run ---------------------------------------------------------------------------------


def _find_target(launch: Launch) -> Target:
    """Find and compile it as Python would, sys.argv and sys.path included.

    Raises CannotStart, SyntaxError, or what a package that -m imports raises.
    """
    sys.argv[:] = ["-m" if launch.is_module else launch.target, *launch.arguments]
    if launch.program:
        return _program_target(launch.target)
    if launch.is_module:
        return _module_target(launch.target)
    if pkgutil.get_importer(launch.target) is not None:
        return _folder_target(launch.target)
    return _script_target(launch.target)


def _script_target(typed: str) -> Target:
    file = os.path.join(os.getcwd(), typed)
    try:
        with io.open_code(file) as stream:
            source = stream.read()
    except OSError as error:
        raise CannotStart(f"can't open {typed!r}: {error.strerror}") from None
    code = pkgutil.read_code(io.BytesIO(source))  # a .pyc file
    if code is None:
        _check_decodes(typed, source)
        code = compile(source, file, "exec", dont_inherit=True)
    from importlib.machinery import SourceFileLoader

    names = {"__file__": file, "__loader__": SourceFileLoader("__main__", file)}
    folder = None if sys.flags.safe_path else os.path.dirname(os.path.realpath(file))
    _replace_path(folder)
    return Target(code, names, typed)


def _check_decodes(typed: str, source: bytes) -> None:
    if b"\0" in source:
        raise CannotStart(f"{typed!r} is not Python source: it holds NUL bytes")
    try:
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        except SyntaxError:
            source.decode("utf-8")  # says which byte, where no encoding is declared
            raise
        source.decode(encoding)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise CannotStart(f"{typed!r} is not Python source: {error}") from None


def _folder_target(typed: str) -> Target:
    """A folder or zip file with a __main__.py."""
    path = os.path.join(os.getcwd(), typed)
    _replace_path(path, always=True)
    try:
        _, spec, code = runpy._get_main_module_details(_NotFound)  # type: ignore[attr-defined]
    except _NotFound as error:
        raise CannotStart(f"{typed!r} cannot be run: {error}") from None
    return Target(code, _names_of(spec), typed)


def _module_target(name: str) -> Target:
    _replace_path(None if sys.flags.safe_path else os.getcwd())
    try:
        _, spec, code = runpy._get_module_details(name, _NotFound)  # type: ignore[attr-defined]
    except _NotFound as error:
        raise CannotStart(str(error)) from None
    return Target(code, _names_of(spec), spec.origin or name)


def _program_target(name: str) -> Target:
    """A program of modpdb's. It takes nothing from where the user happens to be: in a
    checkpoint's folder a `tokenizers.py` would be taken for the library."""
    _replace_path(None)
    spec: Any = importlib.util.find_spec(name)
    return Target(spec.loader.get_code(name), _names_of(spec), spec.origin)


def _names_of(spec: Any) -> dict[str, Any]:
    return {
        "__file__": spec.origin,
        "__cached__": spec.cached,
        "__loader__": spec.loader,
        "__package__": spec.parent,
        "__spec__": spec,
    }


def _replace_path(path: str | None, always: bool = False) -> None:
    """Put *path* where Python put ours: `python -m modpdb` its working directory, the console
    script its folder; under -P, nothing."""
    if not sys.flags.safe_path:
        del sys.path[0]
    if path is not None and (always or not sys.flags.safe_path):
        sys.path.insert(0, path)


def _main_module(target: Target) -> types.ModuleType:
    """A __main__ like the one that Python would have made, in sys.modules."""
    ours = vars(sys.modules["__main__"])
    main = types.ModuleType("__main__")
    names = vars(main)
    names.update({"__annotations__": {}} if "__annotations__" in ours else {})
    names["__builtins__"] = sys.modules["builtins"]
    names["__file__"] = None
    if "__cached__" in ours:
        names["__cached__"] = None
    names.update(target.names)
    sys.modules["__main__"] = main
    return main


# -- presets and commands ------------------------------------------------------------------------


def _preset(launch: Launch) -> Preset | None:
    if not launch.use_preset:
        if launch.stops:
            raise CannotStart("--stop names a stage of a preset: it cannot go with --no-preset")
        return None
    preset = preset_named(launch.preset) if launch.preset else preset_for(_file_name(launch))
    known = [stage.name for stage in preset.stages]
    for stop in launch.stops:
        if stop not in known:
            raise CannotStart(
                f"--stop: {stop!r} is no stage of preset {preset.name}; "
                f"there are {', '.join(known)}"
            )
    return preset


def _file_name(launch: Launch) -> str:
    if launch.program:
        return f"modpdb {launch.program}"
    return launch.target.rpartition(".")[2] + ".py" if launch.is_module else launch.target


def _set_up_stages(debugger: ModPdb, preset: Preset, launch: Launch) -> None:
    from modpdb.presets.stages import Stages

    debugger.plumbing = Plumbing(preset)
    debugger.stages = Stages(preset, debugger.engine, debugger.locator)
    debugger.stages.stop_only_at(launch.stops or preset.default)
    if preset.provenance is not None:
        from modpdb.presets.provenance import Collector

        debugger.collector = Collector(preset.provenance, debugger.engine, debugger.locator)
    if launch.stops or launch.program:
        return
    stops = debugger.stages.stopping()
    runs = f"c runs to stage {' or '.join(stops)}" if stops else "no stage stops"
    debugger.notes.append(f"preset {preset.name}: {runs} · `stages` lists, --stop STAGE changes it")


def _read_commands(debugger: ModPdb, launch: Launch) -> None:
    try:
        if launch.use_rc:
            debugger.run_rc_files(read_rc_files(launch.rc))
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStart(f"--rc: can't read {launch.rc!r}: {error}") from None
    debugger.run_early(launch.commands)


def _report_never_found(debugger: ModPdb, to_the_end: bool) -> None:
    """Name what waited in vain; stages only after a run that got to its end.

    On standard error: what stands on standard output is the script's.
    """
    missing = debugger.never_found()
    if debugger.waiting:
        lines = ", ".join(f"`{line}`" for line in debugger.waiting)
        missing.append(f"no stop came for what was to be run at one: {lines}")
    stages = debugger.stages
    if to_the_end:
        missing += never_met()
    if to_the_end and stages is not None and stages.preset.name != GENERIC:
        missing += [
            f"preset {stages.preset.name}: stage {stage.spec.name} matched nothing "
            f"({', '.join(map(str, stage.spec.at))})"
            for stage in stages.never_found()
        ]
    for each in missing:
        print(f"modpdb: {each}", file=sys.stderr)


@contextlib.contextmanager
def _breakpoints_open(debugger: ModPdb) -> Iterator[None]:
    """Let breakpoint() and pdb.set_trace() of the script open this debugger."""

    def set_trace(
        *args: Any, header: str | None = None, commands: list[str] | None = None, **kwargs: Any
    ) -> None:
        # Code that is run from the prompt (run-model, debug) has a debugger of its own.
        working: Any = debugger_at_work() or debugger
        if header is not None:
            working.message(header)
        working.set_trace(sys._getframe().f_back, commands)

    kept: list[tuple[Any, str, Any]] = []

    def replace(holder: Any, name: str) -> None:
        kept.append((holder, name, getattr(holder, name)))
        setattr(holder, name, set_trace)

    # Not sys.breakpointhook: it calls pdb.set_trace, or what the user or pytest put in its place.
    replace(sys.modules["pdbpp"], "set_trace")
    replace(sys.modules["modpdb"], "set_trace")
    finder = _AfterImport("pdb", lambda module: replace(module, "set_trace"))
    if "pdb" in sys.modules:
        replace(sys.modules["pdb"], "set_trace")
    else:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
        for holder, name, function in kept:
            if getattr(holder, name) is set_trace:
                setattr(holder, name, function)


class _AfterImport:
    """Calls *then* with the module *name* once it has been imported.

    pdb is not imported for it: with pdbpp installed that takes 20 ms.
    """

    def __init__(self, name: str, then: Callable[[Any], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def exec_module(module: types.ModuleType) -> None:
                del loader.exec_module
                execute(module)
                self._then(module)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


# -- running, and how it ends --------------------------------------------------------------------


def _run_main(
    debugger: ModPdb, target: Target, main: types.ModuleType, stop: bool
) -> int | str | None:
    status: int | str | None = None
    try:
        debugger.launch(target.code, vars(main), stop)
    except Quit:
        return 1
    except SystemExit as error:
        status = _exited(debugger, error)
    except BaseException as error:
        status = _failed(debugger, error)
    _report_never_found(debugger, to_the_end=not debugger.ended)
    return status


def _exited(debugger: ModPdb, error: SystemExit) -> int | str | None:
    """SystemExit: its status, after a look at why where that is not success."""
    code = error.code
    if code is None or code == 0:
        return code
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    strip_traceback(error)
    _post_mortem(debugger, error)
    return code


def _failed(debugger: ModPdb, error: BaseException) -> int:
    """An uncaught exception: printed as Python prints it, then looked at."""
    strip_traceback(error)
    _print_exception(error)
    interrupted = isinstance(error, KeyboardInterrupt)
    if not interrupted or debugger.at_terminal():
        _post_mortem(debugger, error)
    if interrupted:
        # Python ends by the signal itself where this comes out at the top; it is printed.
        sys.excepthook = lambda *args: None
        raise error
    return 1


def _post_mortem(debugger: ModPdb, error: BaseException) -> None:
    debugger.ended = True
    if error.__traceback__ is None or debugger.input_at_end():
        return
    if isinstance(error, SystemExit):
        debugger.notes.append(f"the script exits with status {error.code!r}")
    with contextlib.suppress(Quit):
        debugger.post_mortem(error)


def _print_exception(error: BaseException) -> None:
    """As Python prints an uncaught exception: by sys.excepthook, noted in sys.last_*."""
    if isinstance(error, SyntaxError):
        strip_traceback(error)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    sys.last_exc = error  # type: ignore[attr-defined]
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException:
        print("Error in sys.excepthook:", file=sys.stderr)
        traceback.print_exc()
        print("\nOriginal exception was:", file=sys.stderr)
        sys.__excepthook__(type(error), error, error.__traceback__)
