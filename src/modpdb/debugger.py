"""ModPdb: the cycle of stop, prompt, go on. Knows no torch."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import sys
import threading
import traceback
import types
from typing import TYPE_CHECKING, Any

from modpdb._pdbpp import pdbpp
from modpdb.breakpoints import live
from modpdb.command_lines import CommandLines
from modpdb.commands.breaks import BreakCommands
from modpdb.commands.module_stops import ModuleStops
from modpdb.commands.registry import load_commands
from modpdb.early import EarlyLines
from modpdb.prompt.first import prompt_at_once
from modpdb.prompt.plain import PlainInput
from modpdb.rcfile import RcLine, read_rc_files
from modpdb.repairs import Quit
from modpdb.stepping import SteppingPdb
from modpdb.views import import_rich
from modpdb.views.text import printable

if TYPE_CHECKING:
    from modpdb.presets.provenance import Collector
    from modpdb.presets.stages import Stages
    from modpdb.probes.provenance import Provenance
    from modpdb.prompt.session import TerminalInput

_KNOWN_ARGUMENTS = set(inspect.signature(pdbpp.pdb.Pdb.__init__).parameters)
# Nothing runs between two of these but conditions, which make no functions to stop in.
_SETTING_BREAKPOINTS = {"b", "break", "tbreak", "tp", "trace-point"}
_LEAVING = {"q", "quit", "exit", "EOF", "c", "cont", "continue", "debug"}


class ModPdb(CommandLines, EarlyLines, ModuleStops, BreakCommands, SteppingPdb):
    """pdb for people who convert models: pdbpp's Pdb with modpdb's commands and breakpoints.

    Takes what pdb.Pdb takes. ``readrc`` means .modpdbrc files here.
    """

    def __init__(self, *args: Any, readrc: bool = True, **kwargs: Any) -> None:
        # 3.14 passes mode, backend and colorize, which an older pdb does not take.
        optional = {"mode", "backend", "colorize"} - _KNOWN_ARGUMENTS
        kwargs = {key: value for key, value in kwargs.items() if key not in optional}
        super().__init__(*args, readrc=False, **kwargs)
        self.prompt = type(self).prompt
        # 3.14 has no such tables: it queues `silent` and resuming commands like any other.
        self.commands_doprompt: dict[int, bool] = getattr(self, "commands_doprompt", {})
        self.commands_silent: dict[int, bool] = getattr(self, "commands_silent", {})
        self.stages: Stages | None = None
        self.collector: Collector | None = None  # of provenance, under a preset that collects it
        self.on_eof = "quit"
        self.notes: list[str] = []  # said at the next stop
        self.caught: BaseException | None = None  # what post-mortem looks at
        self._pid = os.getpid()
        self._where = ""  # the rc line at hand
        self._plain: PlainInput | None = None
        self._session: TerminalInput | None = None
        if not self.use_color():
            self.config.highlight = self.config.use_pygments = False
        if self.engine.wiring.problem:
            self.notes.append(self.engine.wiring.problem)
        self.notes += load_commands()
        self.take_over_breakpoints()
        if readrc:
            self.run_rc_files(read_rc_files())

    curframe: Any  # None before the first stop; commands that need one are not run without

    # pdbpp's `debug` gives the inner debugger its prompt by this name.
    _pdbpp_prompt = property(
        lambda self: self.prompt, lambda self, value: setattr(self, "prompt", value)
    )

    @property
    def provenance(self) -> Provenance | None:
        """Where the tensors come from that were written so far; None where no preset collects."""
        return self.collector.provenance if self.collector is not None else None

    # -- a stop ----------------------------------------------------------------------------------

    def post_mortem(self, error: BaseException | types.TracebackType) -> None:
        """The prompt where *error* was raised."""
        self.reset()
        self.caught = error if isinstance(error, BaseException) else None
        # Since 3.13 pdb takes the exception, for `exceptions`.
        if isinstance(error, BaseException) and not hasattr(self, "_hold_exceptions"):
            self.interaction(None, error.__traceback__)
        else:
            self.interaction(None, error)

    def interaction(self, frame: types.FrameType | None, tb_or_exc: Any = None) -> None:
        """Show the stop and take commands until one lets the program go on.

        pdbpp 0.12's discards the exception, so that chained ones (3.13) are lost, and runs rc
        lines by pdb's means, which differ from version to version.
        """
        if self.in_forked_child():
            self.set_continue()
            return
        with self.at_prompt():
            if self.stop_is_over():
                self.set_continue()
                return
            self.ended = frame is None
            if frame is None:
                self._sticky_skip_cls = True
            else:
                self.trace_from(frame)
            self._restore_sigint()
            if self.stages is not None:
                self.stages.clock.stand()
            exceptions, tb = (), tb_or_exc
            if hasattr(self, "_get_tb_and_exceptions"):
                exceptions, tb = self._get_tb_and_exceptions(tb_or_exc)
            with self._holding(exceptions):
                self.setup(frame, tb)
                resumed, self.waiting = self._run_lines(self.waiting)
                if not resumed:
                    self._show_stop()
                    self.config.before_interaction_hook(self)
                    self._cmdloop()
                self.forget()
            self.go_on()

    def go_on(self) -> None:
        super().go_on()
        if self.stages is not None:
            self.stages.go_on()

    def in_forked_child(self) -> bool:
        """A forked child has the breakpoints but nobody who types: it never stops."""
        return os.getpid() != self._pid

    def _holding(self, exceptions: Any) -> Any:
        if hasattr(self, "_hold_exceptions"):
            return self._hold_exceptions(exceptions)
        return contextlib.nullcontext()

    def _restore_sigint(self) -> None:
        """What pdb's `continue` installed, outside of the launcher."""
        if pdbpp.pdb.Pdb._previous_sigint_handler:
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGINT, pdbpp.pdb.Pdb._previous_sigint_handler)
                pdbpp.pdb.Pdb._previous_sigint_handler = None

    def _show_stop(self) -> None:
        if not self.sticky:
            self.print_stack_entry(self.stack[self.curindex])
            self.print_hidden_frames_count()
        thread = threading.current_thread()
        if thread is not threading.main_thread():
            self.message(f"thread {thread.name}")
        if self.stages is not None and self.stages.at is not None:
            spec = self.stages.at.spec
            self.message(f"stage {spec.name}: {spec.says}")
        for said in self.stages.said if self.stages is not None else ():
            self.message(said)
        for note in self.notes:
            self.message(note)
        self.notes.clear()
        if self.caught is not None:
            from modpdb.commands.explain import explain_unasked

            explain_unasked(self, self.caught)

    def bp_commands(self, frame: types.FrameType) -> bool:
        """Run a breakpoint's `commands`, through aliases and `;;`, which pdb's (up to 3.13)
        does not, and without its attribute check on 3.14. True: stop as usual."""
        number = getattr(self, "currentbp", 0)
        if number not in self.commands:
            return True
        self.currentbp = 0
        if self.in_forked_child():
            self.set_continue()
            return False
        with self.at_prompt():
            last = self.lastcmd
            if self.stages is not None:
                self.stages.clock.stand()
            self.trace_from(frame)
            self.setup(frame, None)
            resumed, _ = self._run_lines(list(self.commands[number]))
            self.lastcmd = last
            if not self.commands_silent[number]:
                self._show_stop()
            if self.commands_doprompt[number] and not resumed:
                self._cmdloop()
            self.forget()
            self.go_on()
        return False

    # -- the loop ------------------------------------------------------------------------------

    def _cmdloop(self) -> None:
        """3.15's pdb replaces stdin and prompt here."""
        while True:
            try:
                self.allow_kbdint = True
                self.cmdloop()
                self.allow_kbdint = False
                return
            except KeyboardInterrupt:
                self.message("--KeyboardInterrupt--")

    def cmdloop(self, intro: str | None = None) -> None:
        """cmd.Cmd's (all versions) with our input in place of readline's."""
        self.preloop()
        stop: Any = None
        while not stop:
            line = self.cmdqueue.pop(0) if self.cmdqueue else self.read_line(self.prompt)
            line = self.precmd(line)
            stop = self.postcmd(self.onecmd(line), line)
        self.postloop()

    def _run_lines(self, lines: list[str]) -> tuple[bool, list[str]]:
        """Run *lines* as if typed; whether one resumes, and what was left of them then."""
        kept, self.cmdqueue = self.cmdqueue, list(lines)
        self._running_lines = True
        try:
            while self.cmdqueue:
                line = self.precmd(self.cmdqueue.pop(0))
                if self.postcmd(self.onecmd(line), line):
                    return True, self.cmdqueue
            return False, []
        except KeyboardInterrupt:  # of a long command: the rest is dropped, the prompt comes
            self.message("--KeyboardInterrupt--")
            return False, []
        finally:
            self.cmdqueue = kept
            self._running_lines = False
            self._where = ""

    def precmd(self, line: str) -> str:
        self._where = line.where if isinstance(line, RcLine) else ""
        return super().precmd(line)

    def onecmd(self, line: str) -> Any:
        self._say_what_is_shadowed(line)
        live.keep(line.partition(" ")[0] in _SETTING_BREAKPOINTS)
        try:
            return super().onecmd(line)
        except (KeyboardInterrupt, Quit):
            raise
        except BaseException as error:  # of whatever objects the script holds
            # Leaving is done by exceptions too: pytest's do_quit raises its own.
            if line.split(maxsplit=1)[:1] and line.split()[0] in _LEAVING:
                raise
            self.report(error, line.split(maxsplit=1)[0] if line.strip() else "")
            return False

    def report(self, error: BaseException, name: str) -> None:
        """One line for an error inside a command; MODPDB_DEBUG=1 adds the traceback."""
        said = "".join(traceback.format_exception_only(error)).strip().splitlines()
        self.error(f"{name}: {said[-1] if said else type(error).__name__}")
        if os.environ.get("MODPDB_DEBUG", "0") not in ("", "0"):
            traceback.print_exception(error, file=self.stdout)

    def error(self, msg: Any) -> None:
        """One line, or more of pdb's; names out of a checkpoint may hold escape sequences."""
        text = "\n".join(map(printable, str(msg).split("\n")))
        super().error(f"{self._where}: {text}" if self._where else text)

    # -- input and output ----------------------------------------------------------------------

    def at_terminal(self) -> bool:
        """Whether a person types and reads."""
        return (
            _is_terminal(self.stdin)
            and _is_terminal(self.stdout)
            and os.environ.get("TERM") != "dumb"
        )

    def use_color(self) -> bool:
        return _is_terminal(self.stdout) and not os.environ.get("NO_COLOR")

    def read_line(self, prompt: str) -> str:
        """The next line typed; "EOF" at the end of input, as cmd.Cmd has it."""
        if self._running_lines and self.commands_defining:
            self.error("`commands` without `end`")
            return "end"
        try:
            return self._input().read(prompt)
        except EOFError:
            return "EOF"

    def read_more(self) -> str | None:
        if self.cmdqueue:
            return self.cmdqueue.pop(0)
        line = None if self._running_lines else self.read_line("...     ")
        return None if line == "EOF" else line

    def ask(self, question: str) -> str:
        line = self.cmdqueue.pop(0) if self.cmdqueue else self.read_line(question)
        return "" if line == "EOF" else line.strip().lower()

    def _input(self) -> PlainInput | TerminalInput:
        if self.at_terminal():
            if self._session is None:
                with prompt_at_once(self.prompt, self.stdin, self.stdout):
                    from modpdb.prompt.session import TerminalInput

                    self._session = TerminalInput(self)
            return self._session
        return self.plain_input()

    def plain_input(self) -> PlainInput:
        if self._plain is None or self._plain.stdin is not self.stdin:
            self._plain = PlainInput(self.stdin, self.stdout)
        return self._plain

    def input_at_end(self) -> bool:
        """Whether nobody will type anything any more."""
        return not self.waiting and not self.at_terminal() and self.plain_input().at_end()

    def show(self, *renderables: Any) -> None:
        """Print what a view made."""
        import_rich()
        from modpdb.views.console import print_to

        print_to(self.stdout, renderables, color=self.use_color())

    def one_line(self, value: Any) -> str:
        from modpdb.probes.values import one_line

        return printable(one_line(value))

    # -- commands of pdb that need care --------------------------------------------------------

    def do_EOF(self, arg: str) -> Any:
        """Handle the end of input: as `quit`, or as --on-eof says."""
        if not self._launched:
            return self.do_quit("")
        if self.on_eof == "continue":
            self.message("end of input: the script runs on")
            return self.do_continue("")
        self.message("end of input: quit")
        return self.do_quit("")

    def do_args(self, arg: str) -> None:
        """a(rgs)

        Print the arguments of the current function, a line each; tensors in their one-line form.
        """
        # pdb prints each whole (all versions): a tensor, or a dict of them, fills the screen.
        code, values = self.curframe.f_code, self.curframe_locals
        many = bool(code.co_flags & inspect.CO_VARARGS) + bool(
            code.co_flags & inspect.CO_VARKEYWORDS
        )
        for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + many]:
            value = self.one_line(values[name]) if name in values else "*** undefined ***"
            self.message(f"{name} = {value}")

    do_a = do_args

    def do_debug(self, arg: str) -> None:
        """debug CODE

        Step through CODE, an expression or a statement, at the prompt ((ModPdb)); q leads back.
        """
        # pdbpp 0.12's forgets afterwards what breakpoints were set or cleared inside.
        from modpdb.nested import second_debugger

        names, own = self.curframe.f_globals, self.curframe_locals
        self.message("ENTERING RECURSIVE DEBUGGER")
        try:
            with second_debugger(self) as inner:
                sys.call_tracing(inner.run, (arg, names, own))
            self.lastcmd = inner.lastcmd
        except Exception as error:
            self.error("".join(traceback.format_exception_only(error)).strip())
        self.message("LEAVING RECURSIVE DEBUGGER")

    def do_run(self, arg: str) -> None:
        """run

        Not in modpdb: nothing is run again. Quit, and start it anew.
        """
        self.error("modpdb runs a program once; quit (q) and start it again")

    do_restart = do_run


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # replaced by something that is no file, or closed
        return False
