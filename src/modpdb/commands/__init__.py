"""What can be typed at the prompt: parse the line, ask a probe, show a view."""

from modpdb.commands.registry import (
    COMMANDS,
    Arguments,
    Command,
    UsageError,
    command,
    load_commands,
)

__all__ = ["COMMANDS", "Arguments", "Command", "UsageError", "command", "load_commands"]
