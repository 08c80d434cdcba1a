"""How lines are typed: plain from a pipe, with prompt_toolkit at a terminal."""
