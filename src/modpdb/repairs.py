"""pdbpp.Pdb with what it and pdb get wrong for a long-lived debugger of tensor programs.

Each override says which version needs it and why, so that it can go on the right day.
"""

from __future__ import annotations

import bdb
import codeop
import contextlib
import io
import re
import sys
import traceback
import types
from collections.abc import Iterator
from typing import Any

from modpdb._pdbpp import pdbpp

_MISSING = object()
# Control characters, but for those that pdbpp colours and clears with, tab and line end.
_CONTROL = re.compile(r"(\x1b\[[\d;]*[mHJ])|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Quit(BaseException):
    """The user's `q`, on its way out of the script.

    bdb.BdbQuit is an Exception (all versions up to 3.15): a script's `except Exception`
    swallows it and goes on with the debugger gone.
    """


class RepairedPdb(pdbpp.Pdb):
    """pdbpp.Pdb, repaired. Knows no torch and none of modpdb's commands."""

    prompt = "(ModPdb) "  # a plain attribute: pdbpp 0.12's property would make it "(ModPdb++) "
    stdout: Any
    botframe: Any
    curframe_locals: Any
    lastcmd: str
    cmdqueue: list[str]
    _end_may_follow = False
    _last_pdb_instance = None  # 3.14 keeps this on pdb.Pdb: set_trace() returned another class's

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            # pdbpp 0.12: the flag sticks, and the next instance is a plain pdb.Pdb.
            pdbpp.local._pdbpp_in_init = False
            raise

    # -- leaving -------------------------------------------------------------------------------

    def trace_dispatch(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        try:
            return super().trace_dispatch(frame, event, arg)
        except bdb.BdbQuit:
            raise Quit from None
        finally:
            self.enterframe = None  # 3.13's bdb keeps the last traced frame alive

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While something runs under this debugger. bdb lets only BdbQuit end that quietly (all
        versions)."""
        with contextlib.suppress(Quit):
            yield

    def run(self, *args: Any, **kwargs: Any) -> None:
        with self.running():
            super().run(*args, **kwargs)

    def runeval(self, *args: Any, **kwargs: Any) -> Any:
        with self.running():
            return super().runeval(*args, **kwargs)

    def runcall(self, *args: Any, **kwargs: Any) -> Any:
        with self.running():
            return super().runcall(*args, **kwargs)

    # -- what pdbpp leaves behind --------------------------------------------------------------

    def _install_linecache_wrapper(self) -> None:
        """pdbpp 0.12 replaces linecache.checkcache for the rest of the process: do not."""

    @contextlib.contextmanager
    def _custom_completer(self) -> Iterator[None]:
        """pdbpp 0.12 starts readline or pyrepl at every stop; the prompt completes by itself."""
        yield

    def ensure_file_can_write_unicode(self, f: Any) -> Any:
        """pdbpp 0.12 writes UTF-8 into an output that is not; say what can be said instead."""
        encoding = getattr(f, "encoding", None) or "utf-8"
        if encoding.lower().replace("_", "-") in ("utf-8", "utf8") or isinstance(f, EscapingFile):
            return f
        return EscapingFile(f, encoding)

    def forget(self) -> None:
        """pdbpp 0.12 and pdb keep the last stop's frames, and with them tensors, alive."""
        super().forget()
        self.curframe_locals = {}
        self.fullstack: list[Any] = []
        self._hidden_frames: list[Any] = []
        self._sticky_last_frame = None
        if getattr(self, "_stopped_for_set_trace", False):
            self._via_set_trace_frame = None

    def _is_hidden(self, frame: types.FrameType) -> bool:
        """pdbpp 0.12 reads f_locals of every frame at every stop: up to 3.12 that leaves a dict
        in each which keeps its variables' values alive after the script has deleted them."""
        code = frame.f_code
        named = (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
        if "__tracebackhide__" in named:
            return bool(super()._is_hidden(frame))
        if not self.config.enable_hidden_frames:
            return False
        if code.co_consts and code.co_consts[-1] is pdbpp._HIDE_FRAME:
            return True
        if frame is getattr(self, "_via_set_trace_frame", None):
            return False
        names = frame.f_globals
        return bool(names.get("__unittest") or names.get("__tracebackhide__"))

    # -- printing ------------------------------------------------------------------------------

    def format_stack_entry(self, frame_lineno: Any, lprefix: str = ": ") -> str:
        """bdb's with the returned value in one line.

        bdb takes its repr (all versions): that computes for a tensor, and what it raises at a
        `--Return--` stop ends the script.
        """
        frame, line = frame_lineno
        if "__return__" not in frame.f_locals:
            return str(super().format_stack_entry(frame_lineno, lprefix))
        returned = f"->{self.one_line(frame.f_locals['__return__'])}"
        without = types.SimpleNamespace(f_code=frame.f_code, f_globals=frame.f_globals, f_locals={})
        entry = str(super().format_stack_entry((without, line), returned + lprefix))
        return entry if returned in entry else entry + returned  # no source: no lprefix

    def message(self, msg: str, end: str = "\n") -> None:
        """pdbpp 0.12 lacks `end`, which pdb passes since 3.13."""
        if self.sticky and end == "\n":
            if sys._getframe().f_back.f_code.co_name != "user_exception":  # type: ignore[union-attr]
                self._sticky_messages.append(msg)
            return
        print(msg, end=end, file=self.stdout)

    def error(self, msg: Any) -> None:
        """pdb's one line. pdbpp 0.12 finds the traceback of what was typed by the name of its own
        `default`: ours shows it itself."""
        self._seen_error = msg
        print("***", msg, file=self.stdout)

    def postcmd(self, stop: Any, line: str) -> Any:
        """pdbpp 0.12 assumes a frame in sticky mode; an rc line has none yet."""
        return super().postcmd(stop, line) if self.stack else stop

    def _print_if_sticky(self) -> None:
        """pdbpp 0.12 prints exceptions and returned values as they are, control characters too."""
        shown, self.stdout = self.stdout, io.StringIO()
        try:
            super()._print_if_sticky()
        finally:
            text, self.stdout = self.stdout.getvalue(), shown
            self.stdout.write(_CONTROL.sub(lambda found: found[1] or ascii(found[0])[1:-1], text))

    def _sticky_handle_cls(self) -> None:
        """pdbpp 0.12 clears the screen even where there is none."""
        if self._colored():
            super()._sticky_handle_cls()

    def _colored(self) -> bool:
        return bool(self.config.highlight)

    def _do_inspect(self, arg: str, with_source: bool = False) -> None:
        """pdbpp 0.12 colours `obj?` whatever the configuration says."""
        if self._colored():
            super()._do_inspect(arg, with_source)
            return
        shown, self.stdout = self.stdout, io.StringIO()
        try:
            super()._do_inspect(arg, with_source)
        finally:
            text, self.stdout = self.stdout.getvalue(), shown
            self.stdout.write(pdbpp.RE_COLOR_ESCAPES.sub("", text))

    # -- display -------------------------------------------------------------------------------

    def preloop(self) -> None:
        """Show what has changed; a Ctrl-C ends that, or every prompt would begin with it anew."""
        try:
            self._print_if_sticky()
            self._show_changes()
        except KeyboardInterrupt:
            self.message("--KeyboardInterrupt--")

    def _show_changes(self) -> None:
        """pdb's and pdbpp's `display` compare with `!=`: of a tensor that raises (up to 3.15)."""
        shown = self._get_display_list()
        for expression, old in shown.items():
            new = self._getval_or_undefined(expression)
            if new is not old and _differ(new, old):
                shown[expression] = new
                self.message(f"{expression}: {self.one_line(old)} --> {self.one_line(new)}")

    def _get_display_list(self) -> dict[str, Any]:
        """pdbpp 0.12 notes every frame it stops in, and with it keeps its variables alive."""
        return self.display_list.get(self.curframe, {})

    def _getval_or_undefined(self, arg: str) -> Any:
        """pdbpp 0.12 lets every error but NameError end the session."""
        try:
            return eval(arg, self.curframe.f_globals, self.curframe_locals)
        except KeyboardInterrupt:
            raise
        except BaseException:
            return pdbpp.undefined

    def do_display(self, arg: str) -> None:
        """display [EXPRESSION]

        Show EXPRESSION whenever its value has changed at a stop in this frame. A tensor counts
        as changed when it is another object: what is done in place is not seen.
        Without EXPRESSION: list what is displayed.
        """
        if not arg:
            for expression, value in self._get_display_list().items():
                self.message(f"{expression}: {self.one_line(value)}")
            return
        shown = self.display_list.setdefault(self.curframe, {})
        shown[arg] = value = self._getval_or_undefined(arg)
        self.message(f"{arg}: {self.one_line(value)}")

    def one_line(self, value: Any) -> str:
        """A value in one line, whatever its size (subclasses know tensors)."""
        try:
            return repr(value)
        except Exception as error:
            return f"<unprintable {type(value).__name__}: {type(error).__name__}>"

    # -- statements typed at the prompt --------------------------------------------------------

    def default(self, line: str) -> None:
        """Execute *line* in the current frame.

        pdbpp 0.12 runs it against a copy of the globals up to 3.11, so that `!global G; G = 1`
        is lost; pdb reads the rest of a block past our prompt (3.13, 3.14).
        """
        self.history.append(line)
        source = line[1:].strip() if line[:1] == "!" else line
        if not source:
            return
        try:
            code = self._complete_source(source)
            if code is not None:
                self._execute(code)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.error("".join(traceback.format_exception_only(error)).strip().splitlines()[-1])
            self._show_calls(error)

    def _show_calls(self, error: BaseException) -> None:
        """Where in what was called *error* was raised, as pdbpp shows it; nothing where it was
        raised by the line typed."""
        tb = error.__traceback__
        while tb is not None and tb.tb_frame.f_code.co_filename != "<stdin>":
            tb = tb.tb_next
        if tb is None or tb.tb_next is None or not self.config.show_traceback_on_error:
            return
        lines = traceback.format_tb(tb.tb_next, limit=self.config.show_traceback_on_error_limit)
        print("Traceback (most recent call last):", file=self.stdout)
        print("".join(lines).rstrip(), file=self.stdout)

    def _complete_source(self, source: str) -> types.CodeType | None:
        """Compile *source*, reading on while it is an unfinished block. None: given up."""
        code = codeop.compile_command(source + "\n", "<stdin>", "single")
        while code is None:
            more = self.read_more()
            if more is None:
                return None
            source += "\n" + more
            # As it stands: an added line end would be the empty line that ends a block.
            code = codeop.compile_command(source, "<stdin>", "single")
        return code

    def read_more(self) -> str | None:
        """The next line of an unfinished block, None at the end of input."""
        raise NotImplementedError

    def _execute(self, code: types.CodeType) -> None:
        """Run *code* with the frame's names.

        A nested scope (comprehension, lambda, def) cannot see the frame's locals: for those the
        globals are a copy that holds both, and what was stored with `global` is carried back.
        """
        names, own = self.curframe.f_globals, self.curframe_locals
        nested = any(isinstance(const, types.CodeType) for const in code.co_consts)
        scope = {**names, **own} if nested else names
        before = dict(scope) if nested else {}
        saved = sys.stdout, sys.stdin, sys.displayhook
        try:
            sys.stdin, sys.stdout, sys.displayhook = self.stdin, self.stdout, self.displayhook
            exec(code, scope, own)
        finally:
            sys.stdout, sys.stdin, sys.displayhook = saved
            if nested:
                _carry_back(before, scope, names)

    # -- breakpoint commands -------------------------------------------------------------------

    def handle_command_def(self, line: str) -> bool:
        """Take one line of a `commands` list.

        pdb stores the line as it parsed it, which loses hyphenated names up to 3.12, drops a
        line that is Python, and throws the rest of the queue (an rc file's) away at `end`.
        """
        name, _, _ = self.parseline(line)
        number = self.commands_bnum
        if name == "silent":
            self.commands_silent[number] = True
            return False
        if name in ("end", "EOF"):
            return True
        if not line.strip():
            return False
        self.commands[number].append(line.strip())
        if name and self.resumes(name):
            self.commands_doprompt[number] = False
            self._end_may_follow = True
            return True
        return False

    def precmd(self, line: str) -> str:
        """Swallow the `end` that many write after the resuming line that has ended a list."""
        if self._end_may_follow:
            self._end_may_follow = False
            if line.strip() == "end":
                return "!"
        before = list(self.cmdqueue)
        line = str(super().precmd(line))
        if before and self.cmdqueue[:-1] == before:
            # Up to 3.12 what follows `;;` goes behind all that waits, an rc file's lines too.
            self.cmdqueue.insert(0, self.cmdqueue.pop())
        return line

    def resumes(self, name: str) -> bool:
        """Whether the command lets the program run on, which ends a `commands` list."""
        function = getattr(self, "do_" + name, None)
        return getattr(function, "__name__", "") in {
            *self.commands_resuming,
            "do_until",  # forgotten in pdb's own list, all versions
        }

    def do_clear(self, arg: str) -> None:
        """cl(ear) [filename:lineno | bpnumber ...]

        Clear those breakpoints; without argument all, after asking.
        """
        # pdb asks with input(), past our prompt and its queue (all versions).
        numbers = " ".join(str(each.number) for each in _breakpoints())
        if arg:
            super().do_clear(arg)
        elif not numbers:
            self.message("There are no breakpoints")
        elif self.ask("Clear all breaks? ") in ("y", "yes"):
            super().do_clear(numbers)

    do_cl = do_clear

    def ask(self, question: str) -> str:
        """A word of the user's, lower case; "" at the end of input."""
        raise NotImplementedError


class EscapingFile:
    """A text file whose encoding lacks some of what is said: that is written escaped."""

    def __init__(self, file: Any, encoding: str) -> None:
        self._file = file
        self._encoding = encoding

    def write(self, text: str) -> int:
        escaped = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
        return int(self._file.write(escaped))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _breakpoints() -> list[bdb.Breakpoint]:
    return [each for each in bdb.Breakpoint.bpbynumber if each]


def _differ(new: Any, old: Any) -> bool:
    """Whether two values of a displayed expression differ, not trusting their `!=`."""
    try:
        return bool(new != old)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return True  # tensors and other hostile values: they are not the same object


def _carry_back(before: dict[str, Any], after: dict[str, Any], into: dict[str, Any]) -> None:
    for name in before.keys() | after.keys():
        if after.get(name, _MISSING) is before.get(name, _MISSING):
            continue
        if name in after:
            into[name] = after[name]
        else:
            into.pop(name, None)
