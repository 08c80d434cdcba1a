"""The prompt in a pseudo-terminal, as a person types at it."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

pytestmark = pytest.mark.pty

PROMPT = r"\(ModPdb\)"
SCRIPT = """\
import time
class Thing:
    attribute_one = 1
    @property
    def computed(self):
        raise RuntimeError("a property ran")
thing = Thing()
def busy():
    n = 0
    while n < 10**9:
        n += 1
        time.sleep(0.001)
busy()
"""


class Terminal:
    """A modpdb session in a pty."""

    def __init__(self, *args: str | Path, cwd: Path, env: dict[str, str]) -> None:
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "modpdb", *map(str, args)],
            cwd=str(cwd),
            # A pty without a screen does not answer where its cursor is.
            env={  # type: ignore[arg-type]
                **os.environ,
                "TERM": "xterm-256color",
                "PROMPT_TOOLKIT_NO_CPR": "1",
                **env,
            },
            encoding="utf-8",
            timeout=20,
            dimensions=(40, 120),
        )

    def expect(self, pattern: str) -> str:
        """Read on to *pattern*; returns what came before it."""
        self.child.expect(pattern)
        return self.child.before or ""

    def type(self, text: str) -> None:
        self.child.send(text)

    def line(self, text: str) -> None:
        self.child.send(text + "\r")

    def status(self) -> int | None:
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[object]:
    (tmp_path / "s.py").write_text(SCRIPT)
    opened: list[Terminal] = []

    def open_terminal(*args: str | Path, **env: str) -> Terminal:
        opened.append(Terminal(*(args or ("s.py",)), cwd=tmp_path, env=env))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.child.close(force=True)


def test_prompt_and_quit(terminal) -> None:
    t = terminal()
    t.expect(PROMPT)
    t.line("p 6 * 7")
    t.expect("42")
    t.expect(PROMPT)
    t.line("q")
    assert t.status() == 1


def test_ctrl_c_clears_the_line_and_ctrl_d_quits(terminal) -> None:
    t = terminal()
    t.expect(PROMPT)
    t.type("p 'never run'")
    time.sleep(0.3)
    t.child.sendcontrol("c")
    t.expect(PROMPT)
    t.line("p 'next'")
    t.expect("'next'\r")
    t.expect(PROMPT)
    t.child.sendcontrol("d")
    assert t.status() == 1


def test_tab_completes_commands_options_and_attributes_without_running_them(terminal) -> None:
    t = terminal()
    t.expect(PROMPT)
    t.line("until 8")
    t.expect(PROMPT)
    t.type("linear-\t")
    t.expect("linear-path")
    t.child.sendcontrol("c")
    t.expect(PROMPT)
    t.type("modules --u\t")
    t.expect("unfold")
    t.child.sendcontrol("c")
    t.expect(PROMPT)
    t.type("p thing.attr\t")
    t.expect("attribute_one")
    t.line("")
    t.expect("1")
    t.expect(PROMPT)
    t.type("p thing.comp\t")
    t.expect("computed")
    t.child.sendcontrol("c")
    t.expect(PROMPT)
    t.line("q")
    assert t.status() == 1


def test_a_block_takes_several_lines(terminal) -> None:
    t = terminal()
    t.expect(PROMPT)
    t.line("for k in range(2):")
    t.line("print('value', k * 21)")
    t.line("")
    t.expect("value 21")
    t.expect(PROMPT)
    t.line("q")
    assert t.status() == 1


def test_history_is_kept_between_runs(terminal) -> None:
    t = terminal()
    t.expect(PROMPT)
    t.line("p 'remember me'")
    t.expect(PROMPT)
    t.line("q")
    assert t.status() == 1
    t = terminal()
    t.expect(PROMPT)
    t.child.sendcontrol("r")
    t.type("remember")
    t.expect(" me'")  # the part that is typed is highlighted
    t.line("")
    t.expect("'remember me'\r")
    t.expect(PROMPT)
    t.line("q")
    assert t.status() == 1


def test_ctrl_c_brings_the_prompt_up(terminal) -> None:
    t = terminal()
    t.expect(PROMPT)
    t.line("c")
    time.sleep(0.5)
    t.child.kill(signal.SIGINT)
    t.expect("interrupted: stopping at the next line")
    t.expect(r"busy\(\)")
    t.expect(PROMPT)
    t.line("p n > 0")
    t.expect("True")
    t.expect(PROMPT)
    t.line("q")
    assert t.status() == 1


def test_a_second_ctrl_c_ends_what_waits(terminal, tmp_path: Path) -> None:
    """In the script's frame, and without a frame of ours in the traceback."""
    (tmp_path / "sleeps.py").write_text("import time\ntime.sleep(60)\n")
    t = terminal("sleeps.py")
    t.expect(PROMPT)
    t.line("c")
    time.sleep(0.5)
    t.child.kill(signal.SIGINT)
    t.expect("Ctrl-C again: KeyboardInterrupt there")
    t.child.kill(signal.SIGINT)
    said = t.expect(PROMPT)
    assert "KeyboardInterrupt" in said and "interrupts.py" not in said
    assert "sleeps.py" in said.rpartition("KeyboardInterrupt")[2]
    t.line("q")
    t.child.expect(pexpect.EOF)


def test_ctrl_c_stops_a_long_command(terminal) -> None:
    t = terminal()
    t.expect(PROMPT)
    t.line("p next(n for n in iter(int, 1) if n)")
    time.sleep(0.7)
    t.child.kill(signal.SIGINT)
    t.expect("KeyboardInterrupt")
    t.expect(PROMPT)
    t.line("p 'alive'")
    t.expect("'alive'\r")
    t.line("q")
    assert t.status() == 1


def test_colours_and_no_color(terminal) -> None:
    t = terminal()
    shown = t.expect(PROMPT)
    assert "\x1b[3" in shown  # the file name's colour
    t.line("q")
    assert t.status() == 1
    t = terminal(NO_COLOR="1")
    shown = t.expect(PROMPT)
    assert "\x1b[3" not in shown and "\x1b[1;3" not in shown
    t.line("stages")
    assert "\x1b[33m" not in t.expect("preset generic")
    t.line("q")
    assert t.status() == 1


def test_in_an_asyncio_loop(terminal, tmp_path: Path) -> None:
    script = tmp_path / "async_script.py"
    script.write_text(
        "import asyncio\nasync def main():\n    here = 5\n    breakpoint()\n    return here\n"
        "asyncio.run(main())\n"
    )
    t = terminal("-c", "c", script)
    t.expect(PROMPT)
    t.line("p here + 1")
    t.expect("6")
    t.expect(PROMPT)
    t.line("c")
    assert t.status() == 0


def test_ctrl_c_stops_a_long_command_that_was_not_typed(terminal) -> None:
    t = terminal("-c", "p next(n for n in iter(int, 1) if n)", "-c", "p 'dropped'", "s.py")
    time.sleep(1.5)
    t.child.kill(signal.SIGINT)
    t.expect("KeyboardInterrupt")
    t.expect(PROMPT)
    t.line("p 'alive'")
    assert "'dropped'" not in t.expect("'alive'\r")
    t.expect(PROMPT)
    t.line("q")
    assert t.status() == 1


SLOW = "[__import__('time').sleep(0.01) for _ in range(3000)]"


def test_ctrl_c_in_a_model_that_is_run_from_the_prompt(terminal, llama_checkpoint) -> None:
    pytest.importorskip("transformers")
    t = terminal("model", llama_checkpoint, "5")
    t.child.expect(PROMPT, timeout=120)
    t.line(f"h = model.register_forward_pre_hook(lambda *a: {SLOW} and None)")
    t.expect(PROMPT)
    t.line("run-model 1 2")
    time.sleep(1)
    t.child.kill(signal.SIGINT)
    t.expect("interrupted: stopping at the next line")
    t.expect(r"\(\(ModPdb\)\)")
    t.line("q")
    t.expect("the model's run was given up")
    t.line("h.remove()")
    t.expect(PROMPT)
    t.line("run-model 1 2")
    t.expect(r"\[1, 2, 384\] bf16")
    t.line("q")
    assert t.status() == 1
