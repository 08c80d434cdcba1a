"""What is typed: a command of ours, one of pdb's, or Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modpdb._pdbpp import pdbpp
from modpdb.commands.language import Typed, recognise, recognise_pdbs
from modpdb.commands.registry import COMMANDS, Command, UsageError
from modpdb.repairs import Quit, RepairedPdb
from modpdb.views import import_rich


class CommandLines(RepairedPdb):
    """Takes a line apart, and runs our commands. Mixed into ModPdb."""

    if TYPE_CHECKING:
        commands_defining: bool
        curframe: Any

        def report(self, error: BaseException, name: str) -> None: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._running_lines = False
        self._shadowing: set[str] = set()  # commands of which it was said
        super().__init__(*args, **kwargs)

    def parseline(self, line: str) -> tuple[str | None, str | None, str]:
        typed = recognise(line, COMMANDS, self._is_bound) or self._recognise_pdbs(line)
        if typed is None:
            if self.curframe is None and line.strip().endswith("?"):
                return None, None, line.strip()  # pdbpp 0.12's `name?` looks into the frame
            return super().parseline(line)
        if typed.name is None or (
            typed.name in COMMANDS and COMMANDS[typed.name].is_python(typed.name, typed.argument)
        ):
            return None, None, line.strip()
        argument = typed.argument
        if typed.count is not None:
            argument = pdbpp.ArgWithCount(argument, count=typed.count)
        return typed.name, argument, line.strip()

    def _recognise_pdbs(self, line: str) -> Typed | None:
        return recognise_pdbs(
            line,
            lambda name: name not in COMMANDS and hasattr(self, f"do_{name}"),
            self._is_bound,
        )

    def _say_what_is_shadowed(self, line: str) -> None:
        if self._running_lines or self.commands_defining:
            return
        typed = self._recognise_pdbs(line)
        if typed is not None and typed.name is not None:
            self._say_shadowed(typed.name)

    def _say_shadowed(self, name: str) -> None:
        """Once for each name: `n` is typed at every step, and `gguf` is bound in every frame of a
        conversion."""
        if name in self._shadowing:
            return
        self._shadowing.add(name)
        self.message(f"({name} is the command; !{name} shows the variable)")

    def is_statement(self, text: str) -> bool:
        """Whether *text* is Python to execute, no command."""
        name = self.parseline(text.lstrip())[0] if text.strip() else None
        return not name or not hasattr(self, "do_" + name)

    def _is_bound(self, name: str) -> bool:
        frame = self.curframe
        return frame is not None and (name in self.curframe_locals or name in frame.f_globals)

    def __getattr__(self, name: str) -> Any:
        # Commands are not methods: dir(), and with it completion, would show do_linear_path too.
        if name.startswith("do_") and name[3:] in COMMANDS:
            return lambda argument: self._run_command(name[3:], COMMANDS[name[3:]], argument)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _run_command(self, name: str, entry: Command, text: str) -> bool:
        if not text and self._is_bound(name):
            self._say_shadowed(name)
        import_rich()
        try:
            if getattr(text, "cmd_count", None) is not None:
                raise UsageError(f"{name} takes no count before it")
            if entry.needs_frame and self.curframe is None:
                raise UsageError(f"{entry.name} needs a stopped program")
            return bool(entry.function(self, entry.parse(text)))
        except UsageError as error:
            self.error(error)
        except (KeyboardInterrupt, Quit):
            raise
        except BaseException as error:  # of whatever objects the script holds
            self.report(error, entry.name)
        return False

    def resumes(self, name: str) -> bool:
        return COMMANDS[name].resumes if name in COMMANDS else super().resumes(name)

    def do_help(self, arg: str) -> Any:
        """h(elp) [COMMAND]

        Without argument, list the commands; with one, its help.
        """
        if arg in COMMANDS:
            self.message(COMMANDS[arg].help)
            return None
        if not arg:
            self.message("modpdb's commands (help NAME):")
            for entry in dict.fromkeys(COMMANDS.values()):
                lines = entry.help.splitlines()
                names = ", ".join((entry.name, *entry.aliases))
                self.message(f"  {names:<20} {lines[2] if len(lines) > 2 else lines[0]}")
        return super().do_help(arg)

    do_h = do_help
