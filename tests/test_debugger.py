"""The prompt, driven in process: pdb's and pdbpp's ways go on working, their hazards are mended.

Hazards are numbered as in the list that was made of pdbpp and prompt_toolkit before the first
line was written.
"""

import bdb
import contextlib
import io
import linecache
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modpdb import ModPdb, post_mortem, set_trace
from modpdb._pdbpp import pdbpp
from modpdb.commands.registry import COMMANDS, command
from modpdb.repairs import Quit

Debug = Callable[..., str]


def debugger(*commands: str, **options: Any) -> ModPdb:
    return ModPdb(
        stdin=io.StringIO("".join(f"{line}\n" for line in commands)),
        stdout=io.StringIO(),
        nosigint=True,
        readrc=False,
        **options,
    )


def debug(function: Callable[[], object], *commands: str) -> str:
    """What the debugger prints while *function* runs under it with *commands* typed."""
    dbg = debugger(*commands)
    dbg.runcall(function)
    return dbg.stdout.getvalue()


def answers(function: Callable[[], object], *commands: str) -> list[str]:
    """What each command printed."""
    return [part.strip("\n") for part in debug(function, *commands).split("(ModPdb) ")[1:]]


@pytest.fixture
def shouting():
    """A command with a hyphen that says what it was given."""

    @command("shout-it", "shout", options={"-n": "N"})
    def shout(dbg: ModPdb, arguments: Any) -> None:
        """shout-it [-n N] TEXT

        Says TEXT.
        """
        if arguments.target == "boom":
            raise BaseException("inside")
        dbg.message(f"<{arguments.target}|{dict(arguments.options)}>")

    yield
    for name in ("shout-it", "shout"):
        del COMMANDS[name]


def sample() -> int:
    params = {"a": 1}
    x = 1
    y = [x] * 3
    x = 2
    return x + len(y) + len(params)


# -- parsing: hazards 1 to 4 ----------------------------------------------------------------------


def test_hyphenated_names_everywhere(shouting: None) -> None:
    said = debug(
        sample,
        "shout-it one",
        "p 0 ;; shout-it -n 2 two",
        "alias sh shout-it %1 %1",
        "sh three",
        "shout four",
        "c",
    )
    for each in ("<one|{}>", "<two|{'-n': '2'}>", "<three three|{}>", "<four|{}>"):
        assert each in said


def test_hyphenated_names_in_breakpoint_commands(shouting: None) -> None:
    def program() -> None:
        sample()
        sample()

    said = debug(program, "b sample", "commands", "silent", "shout-it here", "c", "c")
    assert said.count("<here|{}>") == 2
    assert "sample()\n-> params" not in said  # silent shows no stop


def test_a_resuming_command_ends_the_list(shouting: None) -> None:
    for resuming in ("finish", "until", "c", "stage x"):
        bdb.Breakpoint.clearBreakpoints()
        said = debug(sample, "b sample", "commands", resuming, "p 'typed at the prompt'", "c")
        assert said.count("(com)") == 1 and "(ModPdb) 'typed at the prompt'" in said


def test_commands_without_a_variable_in_the_way() -> None:
    typed = ["n", "params[0:1] if 0 else params['a']", "params", "!params", "params", "c"]
    replies = answers(sample, *typed)
    assert replies[1] == "1"
    assert replies[2].startswith("(params is the command; !params shows the variable)\n")
    assert replies[3] == "{'a': 1}"
    assert "is the command" not in replies[4]  # said once


def shape() -> int:
    b, n, c, h, w = 1, 2, 3, 4, 5
    total = b + n
    total += c
    return total + h + w


def test_a_bare_command_of_pdb_wins_over_a_variable() -> None:
    replies = answers(shape, "n", "n", "n ", "!n", "b", "c")
    assert "is the command" not in replies[0]  # nothing was bound before
    assert replies[1].startswith("(n is the command; !n shows the variable)\n")
    assert replies[1].endswith("-> total += c")
    assert "is the command" not in replies[2] and replies[2].endswith("-> return total + h + w")
    assert replies[3] == "2"
    assert replies[4] == "(b is the command; !b shows the variable)"
    assert replies[5] == "(c is the command; !c shows the variable)"


def test_python_with_a_variable_of_a_command_of_pdbs_name() -> None:
    replies = answers(shape, "n", "n + 1", "n+1", "w.real", "h in (4,)", "b = 7", "p b", "n", "q")
    assert replies[1:7] == ["3", "3", "5", "True", "", "7"]
    assert replies[7].endswith("-> total += c")


def test_a_shadowed_name_in_lines_that_nobody_typed() -> None:
    said = debug(shape, "tbreak shape+2", "commands", "w", "c", "end", "n", "q")
    assert "-> total = b + n" in said and "is the command" not in said


def test_assigning_to_a_variable_of_a_commands_name() -> None:
    said = debug(sample, "n", "params = {'a': 1, 'b': 2}", "n", "n", "n", "n", "c")
    assert "sample()->7" in said


def test_the_count_prefix_does_not_cut_a_name() -> None:
    reply = answers(sample, "10linear-pth x", "c")[0]
    assert "SyntaxError" in reply


def test_completion_knows_names_as_typed_only() -> None:
    names = dir(ModPdb)
    assert "do_linear_path" not in names and "do_linear-path" not in names
    assert callable(getattr(debugger(), "do_linear-path"))


# -- instances: hazards 5 to 8 --------------------------------------------------------------------


def test_the_prompt_is_ours() -> None:
    assert debugger().prompt == "(ModPdb) "
    assert debug(sample, "c").endswith("(ModPdb) ")


def test_a_failed_init_does_not_spoil_the_next() -> None:
    class Broken(pdbpp.DefaultConfig):
        def setup(self, pdb: Any) -> None:
            raise RuntimeError("config")

    with pytest.raises(RuntimeError, match="config"):
        debugger(Config=Broken)
    assert type(debugger()) is ModPdb


def test_arguments_of_newer_pdbs_are_taken() -> None:
    dbg = ModPdb("tab", io.StringIO(), io.StringIO(), mode="inline", backend=None, colorize=False)
    assert type(dbg) is ModPdb


# -- the prompt: hazards 11 and 13 ----------------------------------------------------------------


def test_clear_asks_at_our_prompt() -> None:
    said = debug(sample, "b sample", "tbreak 1", "delete", "y", "b", "c")
    assert "Clear all breaks? Deleted breakpoint 1" in said
    assert not bdb.Breakpoint.bplist


def test_a_block_is_read_on_from_the_same_input() -> None:
    replies = debug(sample, "n", "for k in range(2):", "    print('k', k)", "", "c")
    assert "k 0\nk 1\n" in replies


def test_readline_is_left_alone() -> None:
    import readline

    before = readline.get_completer()
    debug(sample, "c")
    assert readline.get_completer() is before


# -- overrides: hazards 17 to 19 and the rest of the facts ----------------------------------------


def test_linecache_is_left_as_it_was() -> None:
    before = linecache.checkcache
    debug(sample, "ll", "c")
    assert linecache.checkcache is before


GLOBAL = 0


def test_globals_are_assigned() -> None:
    debug(sample, "!global GLOBAL; GLOBAL = 41", "c")
    assert GLOBAL == 41
    debug(sample, "!global GLOBAL; GLOBAL = sum([GLOBAL for _ in range(2)])", "c")
    assert GLOBAL == 82


def test_nested_scopes_see_the_frames_variables() -> None:
    replies = answers(sample, "n", "n", "[x + n for n in range(2)]", "(lambda: x)()", "c")
    assert replies[2:4] == ["[1, 2]", "1"]


def test_locals_are_assigned() -> None:
    said = debug(sample, "n", "n", "!x = 10", "n", "p y", "c")
    assert "[10, 10, 10]" in said


def test_display_survives_what_cannot_be_compared() -> None:
    class Hostile:
        def __ne__(self, other: object) -> bool:
            raise RuntimeError("ambiguous")

        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    def program() -> None:
        t = Hostile()
        t = Hostile()
        u = t  # noqa: F841

    said = debug(program, "n", "display t", "n", "n", "p 'alive'", "c")
    assert "'alive'" in said and said.count("-->") == 1


def test_statement_errors_are_one_line() -> None:
    replies = answers(sample, "1 / 0", "raise SystemExit", "import nope_nope", "x = (1", "", "c")
    assert replies[0] == "*** ZeroDivisionError: division by zero"
    assert replies[1] == "*** SystemExit"
    assert replies[2] == "*** ModuleNotFoundError: No module named 'nope_nope'"


def test_an_error_in_a_command_is_one_line(shouting: None, monkeypatch) -> None:
    assert answers(sample, "shout-it boom", "c")[0] == "*** shout-it: BaseException: inside"
    monkeypatch.setenv("MODPDB_DEBUG", "1")
    said = answers(sample, "shout-it boom", "c")[0]
    assert said.startswith("*** shout-it: BaseException: inside\nTraceback (most recent")


def test_chained_exceptions_are_browsed() -> None:
    def fail() -> None:
        try:
            inner = 1 / 0  # noqa: F841
        except ZeroDivisionError as error:
            raise KeyError("outer") from error

    dbg = debugger("exceptions", "exceptions 0", "p inner if 0 else 'there'", "q")
    try:
        fail()
    except KeyError as error:
        dbg.post_mortem(error)
    said = dbg.stdout.getvalue()
    if sys.version_info >= (3, 13):
        assert "ZeroDivisionError" in said and "> " in said and "KeyError('outer')" in said
    assert "fail()" in said


def test_quit_is_no_exception_that_scripts_catch() -> None:
    assert not issubclass(Quit, Exception)
    swallowed = []

    def program() -> None:
        try:
            swallowed.append(0)
            swallowed.append(1)
        except Exception:
            swallowed.append(2)

    debug(program, "n", "n", "q")
    assert swallowed == [0]


# -- pdb's and pdbpp's own --------------------------------------------------------------------------


def test_sticky_shows_the_function() -> None:
    said = debug(sample, "sticky", "n", "c")
    assert said.count("->") >= 3 and "def sample() -> int:" in said
    assert "\x1b" not in said


def test_pdb_commands_go_on_working() -> None:
    def outer() -> int:
        value = 5
        return inner(value)

    def inner(n: int) -> int:
        a = n
        b = a + 0
        return b  # noqa: RET504

    said = debug(
        outer,
        *("n", "s", "w", "up", "p value", "down", "a", "ll"),
        *("whatis n", "n", "until", "p a", "r", "retval", "c"),
    )
    assert "return inner(value)" in said and "(ModPdb) 5\n" in said
    assert "n = 5" in said and "<class 'int'>" in said and "--Return--" in said


def test_jump_and_condition_and_ignore() -> None:
    hits = []

    def program() -> None:
        for n in range(6):
            hits.append(n)

    line = program.__code__.co_firstlineno + 2
    said = debug(program, f"b {line}", "condition 1 n > 1", "ignore 1 1", "c", "p n", "c", "p n",
                 "clear 1", "c")  # fmt: skip
    assert "Will ignore next 1 crossing of breakpoint 1." in said
    assert "\n3\n" in said.replace("(ModPdb) ", "\n") and hits == list(range(6))


def test_gdbs_words() -> None:
    replies = answers(sample, "n", "info locals", "info b", "info nothing", "finish", "c")
    assert replies[1].startswith("params  dict")
    assert replies[2] == "No breakpoints."
    assert replies[3].startswith("*** info nothing? There are locals, args, breakpoints")
    assert "--Return--" in replies[4]


def test_help_lists_ours_first() -> None:
    said = debug(sample, "help", "help linear-path", "modules?", "help where", "c")
    assert said.index("modpdb's commands") < said.index("Documented commands")
    assert "linear-path, lp      A linear layer's way" in said
    assert "modules [-d N] [-t TYPE] [--unfold] [--skeleton] [TARGET]" in said
    assert "Print a stack trace" in said


def test_recursive_debug() -> None:
    said = debug(sample, "debug sample()", "s", "n", "p x if 0 else 'in'", "c", "p 'out'", "c")
    assert "ENTERING RECURSIVE DEBUGGER" in said and "((ModPdb))" in said
    assert said.index("LEAVING RECURSIVE DEBUGGER") < said.index("'out'")


def test_breakpoints_by_name_fire_once_per_call() -> None:
    calls = []

    def looped() -> None:
        for n in range(3):
            calls.append(n)

    def program() -> None:
        looped()
        looped()

    said = debug(program, "b looped", "c", "c", "c")
    assert said.count("-> for n in range(3):") == 2 and len(calls) == 6


def test_generators_are_entered_once() -> None:
    def numbers() -> Any:
        yield 1
        yield 2

    def program() -> list[int]:
        return list(numbers())

    said = debug(program, "b numbers", "c", "p 'in'", "c", "p 'never'")
    assert said.count("-> yield 1") == 1 and "'in'" in said and "'never'" not in said


def test_a_temporary_breakpoint_and_a_failing_condition() -> None:
    def step(n: int) -> int:
        return n

    def program() -> None:
        for n in range(3):
            step(n)

    said = debug(program, "tbreak step, n == 1", "c", "p n", "b step, nope", "c", "b", "c", "c")
    assert "Deleted breakpoint 1" in said and "condition of breakpoint 2: NameError" in said
    bdb.Breakpoint.clearBreakpoints()  # a new debugger takes them over, as bdb does
    assert debug(program, "b step, n ==", "b len", "b x = 1", "c").count("***") == 3


def test_relative_paths_are_looked_for_from_here(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other_file.py").write_text("x = 1\n\n# comment\ny = 2\n")
    monkeypatch.chdir(tmp_path)
    replies = answers(sample, "b sub/other_file.py:1", "b sub/other_file.py:3", "b sub/nope:1", "c")
    assert replies[0] == f"Breakpoint 1 at {tmp_path}/sub/other_file.py:1"
    assert replies[1] == "*** other_file.py:3 is a comment; the nearest line that can stop is 4"
    assert replies[2] == f"*** 'sub/nope' not found: looked in sys.path and in {tmp_path}"


def test_no_colour_without_a_terminal() -> None:
    said = debug(sample, "n", "ll", "l", "x?", "sample??", "modules?", "w", "c")
    assert "\x1b" not in said


# -- import modpdb ----------------------------------------------------------------------------------


def test_set_trace_with_header_and_commands(modpdb_run, plain_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text(
        textwrap.dedent("""\
        import modpdb
        def f():
            value = 3
            modpdb.set_trace(header="look here", commands=["p value + 1"])
            return value
        f()
        """)
    )
    done = plain_run([script], "p 'typed'\nc\n")
    assert "look here\n" in done.stdout and "\n4\n" in done.stdout and "'typed'" in done.stdout
    assert done.returncode == 0


def test_pythonbreakpoint(plain_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("def f():\n    breakpoint()\n    return 1\nf()\n")
    done = plain_run([script], "p 6 * 7\nc\n", env={"PYTHONBREAKPOINT": "modpdb.set_trace"})
    assert "(ModPdb) 42\n" in done.stdout and "f()" in done.stdout and done.returncode == 0


def test_post_mortem_of_what_is_handled(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("p n\nq\n"))
    try:
        n = 0
        1 / n
    except ZeroDivisionError:
        post_mortem()
    assert "(ModPdb) 0\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no exception is being handled"):
        post_mortem()
    assert callable(set_trace)


def test_pytest_uses_the_class(plain_run, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it():\n    value = 7\n    assert value == 8\n")
    command = ["-m", "pytest", "-p", "no:cacheprovider", "--pdb", "--pdbcls=modpdb:ModPdb", "-q"]
    env = {"PDBPP_HIJACK_PDB": "0"}
    done = plain_run([*command, "test_it.py"], "p value + 1\nq\n", cwd=tmp_path, env=env)
    assert "(ModPdb) 8\n" in done.stdout
    assert "Quitting debugger" in done.stdout or "1 failed" in done.stdout
    assert os.environ.get("PYTEST_CURRENT_TEST")


def test_frames_are_not_kept_alive() -> None:
    import gc
    import weakref

    class Big:
        pass

    seen = []

    def program() -> None:
        big = Big()
        seen.append(weakref.ref(big))

    dbg = debugger("n", "n", "c")
    dbg.runcall(program)
    gc.collect()
    assert seen[0]() is None


def test_pending_breakpoints_without_the_launcher(plain_run, tmp_path: Path) -> None:
    (tmp_path / "later.py").write_text("def work(n):\n    return n + 1\n")
    (tmp_path / "s.py").write_text(
        "import modpdb\nmodpdb.set_trace()\nimport later\nlater.work(41)\n"
    )
    done = plain_run(["s.py"], "b later.work\nc\np n + 1\nc\n", cwd=tmp_path)
    assert "Breakpoint 1 pending: later.work is not imported yet" in done.stdout
    assert "(ModPdb) 42\n" in done.stdout and done.returncode == 0


# -- what is left of the numbered hazards -----------------------------------------------------------


def test_hazard_7_the_last_instance_is_of_this_class() -> None:
    own = ModPdb.__mro__[: ModPdb.__mro__.index(pdbpp.Pdb)]
    assert any("_last_pdb_instance" in vars(cls) for cls in own)


def test_hazard_10_a_pipe_gets_plain_lines(modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("x = 1\ny = 2\n")
    done = modpdb_run([script], "n\nll\nstages\nq\n", env={"TERM": "xterm-256color"})
    assert done.stderr == "" and "\x1b" not in done.stdout
    assert "prompt_toolkit" not in done.stdout


def test_hazard_14_completion_does_not_go_through_pdbpp(monkeypatch) -> None:
    monkeypatch.setattr(pdbpp.Pdb, "_complete", None)
    debug(sample, "n", "c")
    assert not pdbpp.local._pdbpp_completing


def test_hazard_17_message_takes_an_end() -> None:
    dbg = debugger()
    dbg.message("one ", end="")
    dbg.message("two")
    assert dbg.stdout.getvalue() == "one two\n"


def test_hidden_frames_are_left_out_and_counted() -> None:
    def inner() -> int:
        return 1

    def plumbing() -> int:
        __tracebackhide__ = True
        return inner()

    def program() -> int:
        return plumbing()

    said = debug(program, "b inner", "c", "w", "hf_unhide", "w", "c")
    assert "1 frame hidden" in said
    assert said.count(")plumbing()") == 1  # after hf_unhide only


def test_clear_with_nothing_to_clear_asks_nothing() -> None:
    said = debug(sample, "cl", "delete", "p 'not swallowed'", "c")
    assert "Clear all" not in said and "'not swallowed'" in said


def test_debug_knows_breakpoints_by_name() -> None:
    said = debug(sample, "b sample", "debug sample()", "c", "p 'inside', x if 0 else 1", "c", "q")
    assert said.index("ENTERING") < said.index("('inside', 1)") < said.index("LEAVING")


def test_pm_is_where_the_last_exception_was_raised(capsys, monkeypatch) -> None:
    from modpdb import pm

    monkeypatch.setattr(sys, "stdin", io.StringIO("p denominator\nq\n"))
    try:
        denominator = 0
        1 / denominator
    except ZeroDivisionError as error:
        monkeypatch.setattr(sys, "last_value", error, raising=False)
        monkeypatch.setattr(sys, "last_exc", error, raising=False)
    pm()
    assert "(ModPdb) 0\n" in capsys.readouterr().out


def test_what_was_called_from_the_prompt_shows_where_it_failed() -> None:
    def fails(number: int) -> float:
        return number / 0

    def program() -> object:
        call = fails
        return [call]

    said = debug(program, "n", "call(3)", "1 / 0", "c")
    assert "*** ZeroDivisionError: division by zero\nTraceback (most recent call last):\n" in said
    assert "in fails\n    return number / 0" in said
    assert said.count("Traceback") == 1


def test_sticky_escapes_what_the_script_says() -> None:
    def fails() -> None:
        raise RuntimeError("title \x1b]0;owned\x07")

    def program() -> str:
        with contextlib.suppress(RuntimeError):
            fails()
        return "\x1b]0;owned\x07"

    said = debug(program, "sticky", "n", "n", "n", "n", "n", "n", "n", "c")
    assert "RuntimeError: title \\x1b]0;owned\\x07" in said
    assert "\x1b]" not in said and "\x07" not in said


@pytest.mark.parametrize("command_typed", ["locals", "stages", "b @x"])
def test_looking_draws_no_random_number(modpdb_run, tmp_path: Path, command_typed: str) -> None:
    """rich draws one while it is imported."""
    (tmp_path / "s.py").write_text("import random\nrandom.seed(0)\nx = 1\nprint(random.random())\n")
    done = modpdb_run(["s.py"], f"n\nn\n{command_typed}\nc\n", cwd=tmp_path)
    assert "0.8444218515250481\n" in done.stdout
