"""A script under modpdb sees the world it would see without, and ends as it would."""

import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SEEN = """\
import sys, __main__
print(list(globals()))
print({k: str(v) for k, v in globals().items() if k not in ("__builtins__", "sys", "__main__")})
print(type(__builtins__), sys.argv, sys.path, sys._getframe().f_code.co_filename)
print(__main__.__dict__ is globals(), sys.modules["__main__"] is __main__)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SEEN)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text(SEEN)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "__main__.py").write_text(SEEN)
    (tmp_path / "pkg" / "tool.py").write_text(SEEN)
    (tmp_path / "link.py").symlink_to(tmp_path / "app" / "__main__.py")
    import zipfile

    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", SEEN)
    return tmp_path


def without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x", text)


@pytest.mark.parametrize(
    "line",
    ["script.py a -c --help", "./script.py", "link.py", "app x -m", "./app", "app.pyz"]
    + ["-m pkg q", "-m pkg.tool --stop x"],
)
@pytest.mark.parametrize("python", [[], ["-P"]], ids=["", "-P"])
def test_sees_what_python_shows(plain_run, folder: Path, line: str, python: list[str]) -> None:
    # --stop of a stage that never comes: nothing of modpdb's is on standard output.
    options = [*python, "-m", "modpdb", "--no-rc", "--stop", "state_dict"]
    plain = plain_run([*python, *line.split()], cwd=folder)
    under = plain_run([*options, *line.split()], cwd=folder)
    assert plain.stdout.count("\n") == (4 if plain.returncode == 0 else 0)
    assert without_addresses(under.stdout) == without_addresses(plain.stdout)
    assert (under.returncode == 0) == (plain.returncode == 0)


def test_the_console_script_does_the_same(plain_run, folder: Path) -> None:
    command = Path(sys.executable).with_name("modpdb")
    if not command.exists():
        pytest.skip("modpdb is not installed beside this Python")
    plain = plain_run(["script.py", "a"], cwd=folder)
    under = plain_run([command, "--stop", "save", "script.py", "a"], cwd=folder)
    assert without_addresses(under.stdout) == without_addresses(plain.stdout)


def test_no_foreign_module_is_imported_before_the_script_does(modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("import sys; print([m for m in sys.modules if '.' not in m])")
    done = modpdb_run(["--stop", "save", script])
    foreign = {
        "torch",
        "numpy",
        "gguf",
        "safetensors",
        "transformers",
        "pytest",
        "yaml",
        "pygments",
    }
    assert not foreign & set(eval(done.stdout))


@pytest.mark.parametrize(
    ("source", "status", "error"),
    [
        ("pass", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("raise SystemExit('sorry')", 1, "sorry\n"),
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(True)", 1, ""),
        ("import os; os._exit(7)", 7, ""),
        ("def f():\n    1/0\nf()", 1, None),
        ("x = (", 1, None),
        ("import broken", 1, None),
        ("import sys; sys.excepthook = lambda *a: print('hook', a[0].__name__)\n1/0", 1, None),
        ("import atexit; atexit.register(print, 'bye')\nraise KeyboardInterrupt", None, None),
        ("try:\n    import broken\nexcept SyntaxError:\n    import traceback\n"
         "    traceback.print_exc()", 0, None),
    ],
)  # fmt: skip
def test_ends_as_without(
    plain_run, modpdb_run, tmp_path: Path, source: str, status: int | None, error: str | None
) -> None:
    script = tmp_path / "s.py"
    script.write_text(source)
    (tmp_path / "broken.py").write_text("x = (\n")
    plain = plain_run([script])
    under = modpdb_run(["--stop", "save", script])
    assert under.returncode == plain.returncode
    assert (under.stdout, under.stderr) == (plain.stdout, plain.stderr)
    if status is not None:
        assert under.returncode == status
    if error is not None:
        assert under.stderr == error


def test_an_interrupt_ends_it_as_python_ends(plain_run, modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)")
    done = modpdb_run(["--stop", "save", script])
    assert done.returncode == -signal.SIGINT
    assert done.stderr == plain_run([script]).stderr


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.py", None, "can't open 'missing.py': No such file or directory"),
        (
            "latin.py",
            b"x = '\xe9'\n",
            "'latin.py' is not Python source: 'utf-8' codec can't decode",
        ),
        ("model.gguf", b"GGUF\x03\0\0\0", "'model.gguf' is not Python source: it holds NUL bytes"),
        ("odd.py", b"# coding: klingon\n", "'odd.py' is not Python source: unknown encoding"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    modpdb_run, tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = modpdb_run([name], cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"modpdb: {sentence}") and done.stderr.count("\n") == 1


def test_unreadable_folders_and_modules(modpdb_run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = modpdb_run(["empty"], cwd=tmp_path)
    assert done.returncode == 2 and "can't find '__main__' module" in done.stderr
    done = modpdb_run(["-m", "no_such_module"], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "modpdb: No module named no_such_module\n")


# -- leaving ------------------------------------------------------------------------------------


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    script = tmp_path / "failing.py"
    script.write_text(
        textwrap.dedent("""\
        def divide(n):
            return 1 / n
        try:
            print("start")
            divide(0)
        except Exception:
            print("swallowed?")
            raise
        """)
    )
    return script


def test_quit_at_a_stop_is_1_and_not_swallowed(modpdb_run, failing: Path) -> None:
    done = modpdb_run([failing], "n\nn\nq\n")
    assert done.returncode == 1
    assert "swallowed?" not in done.stdout and done.stderr == ""


def test_post_mortem_has_the_raising_frame_and_the_scripts_status(modpdb_run, failing) -> None:
    done = modpdb_run([failing], "c\np n\nq\n")
    assert done.returncode == 1
    assert "swallowed?\n" in done.stdout
    assert re.search(r"> .*failing.py\(2\)divide\(\)\n-> return 1 / n\n\(ModPdb\) 0\n", done.stdout)


def test_post_mortem_of_an_exit_that_is_no_success(modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("import sys\ndef main(why):\n    sys.exit(4)\nmain('x')\n")
    done = modpdb_run([script], "c\np why\nq\n")
    assert done.returncode == 4
    assert "the script exits with status 4\n(ModPdb) 'x'\n" in done.stdout


def test_no_post_mortem_where_nobody_types(modpdb_run, failing: Path) -> None:
    done = modpdb_run(["-c", "c", failing])
    assert done.returncode == 1 and done.stdout.count("(ModPdb)") == 0


def test_commands_of_the_command_line_reach_post_mortem(modpdb_run, failing: Path) -> None:
    done = modpdb_run(["-c", "c", "-c", "p n", failing])
    assert done.returncode == 1 and "\n0\n" in done.stdout


def test_end_of_input_quits_or_lets_run_on(modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("print('one')\nbreakpoint()\nprint('two')\n")
    done = modpdb_run([script])
    assert done.returncode == 1 and done.stdout.endswith("end of input: quit\n")
    done = modpdb_run(["--on-eof", "continue", script])
    assert done.returncode == 0
    assert done.stdout.count("end of input: the script runs on\n") == 2 and "two" in done.stdout


@pytest.mark.parametrize(
    "call", ["breakpoint()", "import pdb; pdb.set_trace()", "import pdbpp; pdbpp.set_trace()"]
)
def test_breakpoints_in_the_script_open_this_debugger(modpdb_run, tmp_path, call: str) -> None:
    script = tmp_path / "s.py"
    script.write_text(f"def f():\n    inside = 1\n    {call}\n    return 2\nf()\n")
    done = modpdb_run([script], "c\nn\np inside, __name__\nstages\nq\n")
    assert "(1, '__main__')" in done.stdout and "preset generic" in done.stdout
    assert done.returncode == 1


def test_breakpoint_is_the_users_to_switch_off(modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("breakpoint()\nprint('end')\n")
    done = modpdb_run(["--stop", "save", script], env={"PYTHONBREAKPOINT": "0"})
    assert (done.returncode, done.stdout) == (0, "end\n")


def test_spawned_processes_find_main(plain_run, modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text(
        textwrap.dedent("""\
        import multiprocessing
        def work(n):
            return n * 2, __name__
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(work, [1, 2]))
        """)
    )
    plain = plain_run([script])
    assert "(2, '__mp_main__')" in plain.stdout
    assert modpdb_run(["--stop", "save", script]).stdout == plain.stdout


def test_nothing_is_run_again(modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("print('once')\n")
    done = modpdb_run([script], "run\nc\nc\nc\n")
    assert done.returncode == 0 and done.stdout.count("once\n") == 1
    assert "*** modpdb runs a program once" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_missing_breakpoints_are_named_at_the_end(modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("pass\n")
    done = modpdb_run(["-c", "b Gemma3Modle.modify_tensors", "-c", "c", script])
    assert done.returncode == 0
    assert "breakpoint 1 was never reached: no Gemma3Modle.modify_tensors was loaded" in done.stderr


# -- found by reviewers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "handler", ["raise RuntimeError('translated')", "sys.exit(0)", "print('swallowed')"]
)
def test_quit_is_1_whatever_the_script_makes_of_it(modpdb_run, tmp_path, handler: str) -> None:
    script = tmp_path / "s.py"
    script.write_text(
        f"import sys\ntry:\n    x = 1\n    x = 2\nexcept BaseException:\n    {handler}\n"
    )
    done = modpdb_run([script], "n\nn\nq\np 'post-mortem'\n")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "post-mortem" not in done.stdout


def test_a_closed_standard_input_is_its_end(modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("import sys\nsys.stdin.close()\nx = 1\nx = 2\n")
    done = modpdb_run([script], "n\nn\nn\nn\n")
    assert done.returncode == 1 and done.stderr == ""
    assert done.stdout.endswith("end of input: quit\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_that_cannot_say_it_gets_it_escaped(modpdb_run, tmp_path, encoding: str) -> None:
    script = tmp_path / "s.py"
    script.write_text("x = 1\n")
    done = modpdb_run([script], "stages\np chr(0x2192)\nq\n", env={"PYTHONIOENCODING": encoding})
    assert done.returncode == 1 and done.stderr == ""
    assert "preset generic: no stage stops" in done.stdout and r"'\u2192'" in done.stdout


def test_forked_children_do_not_stop(plain_run, modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text(
        textwrap.dedent("""\
        import multiprocessing
        def work(number):
            result = number * 2
            return result
        if __name__ == "__main__":
            with multiprocessing.get_context("fork").Pool(2) as pool:
                print(pool.map(work, [1, 2, 3]))
            print(work(4))
        """)
    )
    done = modpdb_run([script], "b work\nb 4\nc\np 'in the parent'\nc\nc\n", timeout=60)
    assert done.returncode == 0 and "[2, 4, 6]\n" in done.stdout
    assert "'in the parent'" in done.stdout and done.stdout.count("work()\n") == 2


def test_a_module_sees_its_arguments_while_it_is_found(plain_run, modpdb_run, tmp_path) -> None:
    package = tmp_path / "pkgx"
    package.mkdir()
    (package / "__init__.py").write_text("import sys; print(sys.argv)\n")
    (package / "__main__.py").write_text("import sys; print(sys.argv)\n")
    plain = plain_run(["-m", "pkgx", "--a"], cwd=tmp_path)
    done = modpdb_run(["--stop", "save", "-m", "pkgx", "--a"], cwd=tmp_path)
    assert done.stdout == plain.stdout
    (package / "__init__.py").write_text("raise ValueError('in the package')\n")
    done = modpdb_run(["-m", "pkgx"], cwd=tmp_path)
    assert done.returncode == 1 and "modpdb" not in done.stderr
    assert "ValueError: in the package" in done.stderr


def test_breakpoint_under_pytest_is_seen(modpdb_run, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it():\n    inside = 6\n    breakpoint()\n")
    command = ["--no-rc", "-m", "pytest", "-p", "no:cacheprovider", "-q", "test_it.py"]
    done = modpdb_run(command, "c\np inside * 7\nq\n", cwd=tmp_path, env={"PDBPP_HIJACK_PDB": "0"})
    shown, _, _ = done.stdout.partition("short test summary")
    assert "42\n" in shown and "Captured stdout" not in done.stdout


def test_nobody_reads_what_is_said(tmp_path: Path) -> None:
    """`modpdb … | head` ends as q does, without a word about the pipe."""
    script = tmp_path / "s.py"
    script.write_text("for i in range(100):\n    x = i\nprint('ran on')\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "modpdb", "--no-rc", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout and process.stderr
    assert process.stdout.readline().startswith("[0] > ")
    process.stdout.close()
    process.stdin.write("n\n" * 50 + "c\n")
    process.stdin.close()
    assert (process.wait(30), process.stderr.read()) == (1, "")
    process.stderr.close()


def test_post_mortem_asks_a_program_that_waits_for_the_prompt(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("1 / 0\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "modpdb", "--no-rc", "-c", "c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin and process.stdout
    shown = ""
    while not shown.endswith("\n(ModPdb) "):
        character = process.stdout.read(1)
        assert character, shown
        shown += character
    process.stdin.write("p 6 * 7\n")
    process.stdin.close()
    assert process.stdout.read().startswith("42\n")
    assert process.wait(30) == 1
    process.stdout.close()
