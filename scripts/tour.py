#!/usr/bin/env python3
"""Runs a modpdb command line through a tour of its commands and prints the session.

Each command is sent when the prompt is there and printed after it, as if it had been typed.
Ends with modpdb's exit status; with 1 if a command failed.
"""

import subprocess
import sys
from typing import IO

PROMPT = "(ModPdb) "
COMMANDS = (
    "stages",
    'b Gemma3Model.modify_tensors, "layers.0.self_attn.q_proj" in name',
    "c",
    "modules",
    "params model.layers.0.*",
    "linear-path model.layers.0.self_attn.q_proj",
    "c",
    "p name",
    "locals",
    "c",
)


def pass_on(output: IO[str]) -> str:
    """Prints output up to and with the next prompt, or to its end; returns what was printed."""
    shown = ""
    while character := output.read(1):
        print(character, end="")
        shown += character
        if shown == PROMPT or shown.endswith("\n" + PROMPT):
            break
    return shown


def tour(command_line: list[str]) -> int:
    """Runs the command line, feeding it COMMANDS, then the end of input.

    Returns its exit status, or 1 where that is 0 though a command was answered by an error.
    """
    with subprocess.Popen(
        command_line,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as session:
        assert session.stdin and session.stdout
        answers = [pass_on(session.stdout)]
        for command in COMMANDS:
            if not answers[-1].endswith(PROMPT):
                break
            print(command, flush=True)
            session.stdin.write(command + "\n")
            session.stdin.flush()
            answers.append(pass_on(session.stdout))
        session.stdin.close()
        while rest := pass_on(session.stdout):
            answers.append(rest)
    refused = any(line.startswith("*** ") for text in answers for line in text.splitlines())
    if refused:
        print("tour: a command failed, see the line with *** above", file=sys.stderr)
    return session.returncode or int(refused)


if __name__ == "__main__":
    sys.exit(tour(sys.argv[1:]))
