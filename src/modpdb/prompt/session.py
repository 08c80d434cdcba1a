"""The prompt at a terminal: prompt_toolkit with history, completion, highlighting, blocks."""

from __future__ import annotations

import asyncio
import codeop
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.application.current import get_app
from prompt_toolkit.filters import Condition, has_completions, is_searching
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import Lexer, PygmentsLexer
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.search import accept_search

from modpdb.prompt.completion import PromptCompleter

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb


class TerminalInput:
    """Reads lines for *debugger* with prompt_toolkit.

    Enter goes on in an unfinished block (def, for, with, an open bracket) and otherwise accepts;
    Ctrl-C clears the line; Ctrl-D on an empty one is the end of input.
    """

    def __init__(self, debugger: ModPdb) -> None:
        self._completer = PromptCompleter(debugger)
        self._session: PromptSession[str] = PromptSession(
            history=open_history(),
            completer=self._completer,
            complete_while_typing=True,
            complete_in_thread=False,  # completers look at the script's objects
            lexer=_lexer() if debugger.use_color() else None,
            key_bindings=_key_bindings(debugger),
            multiline=True,
            prompt_continuation=lambda width, number, wrapped: "." * (width - 1) + " ",
            color_depth=None if debugger.use_color() else ColorDepth.DEPTH_1_BIT,
            enable_open_in_editor=True,
            reserve_space_for_menu=6,
        )

    def read(self, prompt: str) -> str:
        """The next line or block. Raises EOFError for Ctrl-D."""
        self._completer.new_prompt()
        while True:
            try:
                return self._session.prompt(
                    ANSI(f"\x1b[1m{prompt}\x1b[0m"),
                    handle_sigint=threading.current_thread() is threading.main_thread(),
                    # A running event loop (a script that is async) allows no second in its thread.
                    in_thread=asyncio._get_running_loop() is not None,
                )
            except KeyboardInterrupt:
                continue


def open_history() -> History:
    """Kept between runs under the XDG state folder; in memory where that cannot be written."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    file = Path(state, "modpdb", "history")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file.open("ab"):
            pass
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


def _lexer() -> Lexer:
    from pygments.lexers.python import PythonLexer  # type: ignore[import-untyped]

    return PygmentsLexer(PythonLexer)


def is_unfinished(text: str) -> bool:
    """Whether *text* is the beginning of a Python block, not yet ended by an empty line."""
    try:
        return codeop.compile_command(text.removeprefix("!").strip(" \t"), symbol="single") is None
    except (SyntaxError, ValueError, OverflowError):
        return False


def _key_bindings(debugger: ModPdb) -> KeyBindings:
    bindings = KeyBindings()

    @Condition
    def in_block() -> bool:
        text = get_app().current_buffer.text
        return debugger.is_statement(text) and is_unfinished(text)

    @bindings.add("enter", filter=is_searching)
    def accept_found(event: KeyPressEvent) -> None:
        # As bash does: Enter in Ctrl-R runs what was found.
        accept_search()
        event.app.current_buffer.validate_and_handle()

    @bindings.add("enter", filter=in_block & ~is_searching)
    def go_on(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        line = buffer.document.current_line_before_cursor
        indent = len(line) - len(line.lstrip())
        if line.rstrip().endswith(":"):
            indent += 4
        buffer.insert_text("\n" + " " * indent)

    @bindings.add("enter", filter=~in_block & ~is_searching)
    def accept(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("tab", filter=~has_completions)
    def complete(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if not buffer.document.current_line_before_cursor.strip():
            buffer.insert_text("    ")
        else:
            buffer.start_completion(insert_common_part=True)

    return bindings
