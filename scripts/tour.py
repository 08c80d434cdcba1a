#!/usr/bin/env python3
"""Runs a modpdb command line through a tour of its commands and prints the session.

Each command is sent when the prompt is there and printed after it, as if it had been typed.
Ends with modpdb's exit status; with 1 if a command failed.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

PROMPT = "(ModPdb) "
COMMANDS = (
    "stages",
    'b Gemma3Model.modify_tensors, "layers.0.self_attn.q_proj" in name',
    "c",
    "ahead",
    "modules",
    "params model.layers.0.*",
    "linear-path model.layers.0.self_attn.q_proj",
    "c",
    "p name",
    "locals",
    "stage write",
    "provenance blk.0.attn_norm",
    "verify",
    "c",
)


def read_to_prompt(output: IO[str], show: Callable[[str], object]) -> str:
    """Shows output up to and with the next prompt, or to its end; returns what was shown."""
    shown = ""
    while character := output.read(1):
        show(character)
        shown += character
        if shown == PROMPT or shown.endswith("\n" + PROMPT):
            break
    return shown


def session(
    command_line: Sequence[str | Path],
    commands: Sequence[str],
    show: Callable[[str], object] = lambda text: None,
    cwd: Path | None = None,
) -> tuple[str, int]:
    """Runs the command line, types *commands* at its prompts, then ends its input.

    Returns what stands on the screen, standard error included, and the exit status. *show* gets
    it as it comes.
    """
    with subprocess.Popen(
        command_line,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        cwd=cwd,
    ) as process:
        assert process.stdin and process.stdout
        screen = read_to_prompt(process.stdout, show)
        for command in commands:
            if not screen.endswith(PROMPT):
                break
            show(command + "\n")
            process.stdin.write(command + "\n")
            process.stdin.flush()
            screen += command + "\n" + read_to_prompt(process.stdout, show)
        process.stdin.close()
        while rest := read_to_prompt(process.stdout, show):
            screen += rest
    return screen, process.returncode


def tour(command_line: list[str]) -> int:
    """Runs the command line through COMMANDS, printing the session.

    Returns its exit status, or 1 where that is 0 though a command was answered by an error.
    """
    screen, status = session(command_line, COMMANDS, lambda text: print(text, end="", flush=True))
    refused = any(line.startswith("*** ") for line in screen.splitlines())
    if refused:
        print("tour: a command failed, see the line with *** above", file=sys.stderr)
    return status or int(refused)


if __name__ == "__main__":
    sys.exit(tour(sys.argv[1:]))
