"""Where breakpoints stop in what runs already, beside tracepoints, threads and the script's end."""

import re
import sys
import textwrap
from pathlib import Path

import pytest

from modpdb import ModPdb
from modpdb.breakpoints import live


def stops(printed: str) -> list[str]:
    """Line and function of every stop."""
    return re.findall(r"> \S*script\.py\((\d+\)[\w<>]+)\(\)", printed)


@pytest.fixture
def run(modpdb_run, tmp_path: Path):
    def run(source: str, typed: str, **options: object):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(source))
        return modpdb_run([script], typed, timeout=60, **options)

    return run


def test_recursion_that_runs_already(run) -> None:
    source = """\
        def rec(n):
            x = n
            if n:
                rec(n - 1)
            y = x
            return y
        rec(3)
        """
    done = run(source, "tbreak 2\nc\nb 5\n" + "c\np n\n" * 4 + "q\n")
    assert stops(done.stdout)[2:] == ["5)rec"] * 4
    assert re.findall(r"^\(ModPdb\) (\d)$", done.stdout, re.MULTILINE) == list("0123")


def test_a_generator_that_runs_already(run) -> None:
    source = """\
        def gen():
            a = 1
            yield a
            b = 2
            yield b
            c = 3
        print(list(gen()))
        """
    done = run(source, "tbreak 2\nc\nb 6\nc\nc\n")
    assert stops(done.stdout)[1:] == ["2)gen", "6)gen"]


def test_two_breakpoints_on_a_line_that_is_stepped_to(run) -> None:
    source = """\
        def f():
            x = 1
            x = 2
            return x
        f()
        """
    done = run(source, "b 3\nb f+2\ntbreak 2\nc\nn\nc\n")
    assert stops(done.stdout)[1:] == ["2)f", "3)f"]


def test_a_breakpoint_that_was_jumped_to(run) -> None:
    source = """\
        for i in range(3):
            j = i
            k = j
        """
    done = run(source, "b 3\nc\njump 2\nn\nc\np i\nq\n")
    assert stops(done.stdout)[1:] == ["3)<module>", "2)<module>", "3)<module>", "3)<module>"]
    assert done.stdout.rstrip().endswith("1\n(ModPdb)")


def test_stepping_does_not_go_into_expressions(run) -> None:
    source = """\
        def f(x):
            return x
        def g():
            f(1)
            f(2)
            print("written!")
        g()
        """
    done = run(source, "tp f, x\nb 4\nc\ns\ns\ns\nq\n")
    assert "tracepoints.py" not in done.stdout and "<expression>" not in done.stdout
    assert done.returncode == 1 and "written!" not in done.stdout


def test_breakpoints_hold_in_threads_that_outlive_the_script(run) -> None:
    source = """\
        import threading, time
        def work(n):
            return n
        def many():
            time.sleep(0.2)
            for n in range(2):
                work(n)
        threading.Thread(target=many).start()
        print("main done")
        """
    done = run(source, "b work\nc\np 'n', n\nc\np 'n', n\nc\n")
    assert "('n', 0)" in done.stdout and "('n', 1)" in done.stdout, done.stdout + done.stderr


def test_what_runs_at_exit_finds_its_builtins(run) -> None:
    source = """\
        class A:
            def __del__(self):
                print("del")
        kept = A()
        """
    done = run(source, "b A.__del__, False\nc\n")
    assert done.stdout.endswith("del\n") and "NameError" not in done.stderr


def test_functions_that_no_module_holds_find_their_builtins_at_exit(run) -> None:
    source = """\
        import weakref
        class Outer:
            class Inner:
                def __del__(self):
                    print("inner")
        def closure(word):
            def said(reference):
                print(word)
            return said
        class Thing: pass
        thing, inner = Thing(), Outer.Inner()
        kept = weakref.ref(thing, closure("closed")), [closure]
        kept[1].append(inner)
        del Outer, closure, Thing
        """
    done = run(source, "b Inner.__del__, False\nb said, False\nb closure, False\nc\n")
    assert "inner\n" in done.stdout and "closed\n" in done.stdout, done.stdout
    assert "NameError" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr


def test_nothing_is_kept_of_lines_that_come_early() -> None:
    dbg = ModPdb(nosigint=True, readrc=False)
    dbg.run_early(["b no_such_function"])
    assert live.functions() is not live.functions()


def test_globs_that_match_the_debugger_itself(run) -> None:
    source = """\
        def f():
            return 1
        f()
        f()
        """
    done = run(source, "b *_line, False\nb *.stop*, False\nb 2\nc\nc\nc\n")
    assert stops(done.stdout)[1:] == ["2)f", "2)f"] and done.returncode == 0


def test_a_breakpoint_cleared_while_another_thread_waits(run) -> None:
    source = """\
        import threading
        started = threading.Barrier(3)
        def work():
            started.wait()
            for n in range(1):
                x = n
        threads = [threading.Thread(target=work) for _ in range(3)]
        for each in threads: each.start()
        for each in threads: each.join()
        """
    done = run(source, "b 6\nc\n!import time; time.sleep(0.5)\nclear 1\nc\n")
    assert stops(done.stdout)[1:] == ["6)work"] and done.returncode == 0


def test_setting_breakpoints_leaves_other_threads_alone(run) -> None:
    source = """\
        import threading
        ended, failed = threading.Event(), []
        def work():
            while not ended.is_set():
                try:
                    tuple(n for n in range(50))
                except SystemError as error:
                    failed.append(error)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for each in threads: each.start()
        x = 1
        ended.set()
        for each in threads: each.join()
        print("failed", len(failed))
        """
    done = run(source, "b 11\nc\n" + "b nowhere\nb 12\n" * 5 + "clear 2\nc\nc\n")
    assert done.stdout.endswith("failed 0\n"), done.stdout[-500:]


def test_another_tracer_has_its_frames_back(run) -> None:
    source = """\
        import sys
        seen = []
        def tracer(frame, event, arg):
            if event == "line" and frame.f_code.co_name == "f":
                seen.append(frame.f_lineno - frame.f_code.co_firstlineno)
            return tracer
        def f():
            a = 1
            breakpoint()
            b = 2
            c = 3
            return c
        sys.settrace(tracer)
        f()
        sys.settrace(None)
        print("seen", seen)
        """
    done = run(source, "c\nc\n")
    seen = re.findall(r"seen \[(.*)\]", done.stdout)[0]
    assert seen.startswith("1, 2") and seen.endswith("4, 5"), seen


@pytest.mark.skipif(sys.version_info < (3, 13), reason="bdb keeps frames since 3.13")
def test_set_trace_keeps_no_frame(run) -> None:
    source = """\
        import gc, weakref
        class Big: pass
        def f():
            big = Big()
            breakpoint()
            return weakref.ref(big)
        kept = f()
        gc.collect()
        print("alive" if kept() else "gone")
        """
    done = run(source, "c\nc\n")
    assert done.stdout.endswith("gone\n")
