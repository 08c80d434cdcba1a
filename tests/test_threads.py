"""Breakpoints in every thread, one prompt at a time; children of the process never stop."""

import re
import textwrap
from pathlib import Path

import pytest

WORK = textwrap.dedent("""\
    import sys, threading

    hits = []
    lock = threading.Lock()

    def work(name, times):
        for number in range(times):
            hits.append((name, number))
        return name

    def run(count, times):
        threads = [threading.Thread(target=work, args=(f"w{n}", times), name=f"worker-{n}")
                   for n in range(count)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        print("done", len(hits))

    run(*map(int, sys.argv[1:]))
    """)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "threads.py"
    file.write_text(WORK)
    return file


def test_each_thread_stops_once_and_says_which(modpdb_run, script: Path) -> None:
    done = modpdb_run([script, "3", "2"], "b work\n" + "c\np name\n" * 3 + "c\n")
    assert done.returncode == 0 and done.stdout.endswith("done 6\n"), done.stderr
    threads = re.findall(r"\nthread (worker-\d)\n", done.stdout)
    assert sorted(threads) == ["worker-0", "worker-1", "worker-2"]
    names = re.findall(r"^(?:\(ModPdb\) )+'(w\d)'", done.stdout, re.MULTILINE)
    assert [f"worker-{name[1]}" for name in names] == threads


def test_none_of_10_000_hits_is_lost_or_comes_twice(modpdb_run, script: Path) -> None:
    typed = (
        "!seen = []\nb 8\ncommands\nsilent\n!seen.append((name, number))\nc\nend\n"
        "b 18\nc\np len(seen), len(set(seen)), seen == hits or sorted(seen) == sorted(hits)\n"
        "info breakpoints\nc\n"
    )
    done = modpdb_run([script, "8", "1250"], typed, timeout=110)
    assert "(10000, 10000, True)\n" in done.stdout, done.stdout[-2000:] + done.stderr
    assert "already hit 10000 times" in done.stdout


def test_stepping_stays_in_its_thread(modpdb_run, script: Path) -> None:
    typed = "tbreak 7\nc\n" + "n\np name, number\n" * 4 + "r\nc\n"
    done = modpdb_run([script, "2", "2"], typed)
    assert done.returncode == 0 and done.stdout.endswith("done 4\n")
    values = re.findall(r"\('(w\d)', (\d)\)", done.stdout)
    assert len({name for name, _ in values}) == 1
    assert [number for _, number in values] == ["0", "0", "1", "1"]
    assert "--Return--" in done.stdout


def test_quit_in_a_thread_ends_the_script(modpdb_run, script: Path) -> None:
    done = modpdb_run([script, "3", "2"], "b work\nc\nq\n", timeout=30)
    assert done.returncode == 1
    assert "done" not in done.stdout and "Traceback" not in done.stderr


CHILDREN = {
    "fork": """
        import os, sys
        def work():
            return 3
        pid = os.fork()
        if not pid:
            os._exit(work())
        print("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), work())
        """,
    "spawn": """
        import multiprocessing
        def work(number=0):
            return number + 3
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print("child", pool.apply(work), work())
        """,
}


@pytest.mark.parametrize("way", CHILDREN)
def test_children_run_on_without_breakpoints(modpdb_run, tmp_path: Path, way: str) -> None:
    script = tmp_path / "children.py"
    script.write_text(textwrap.dedent(CHILDREN[way]))
    done = modpdb_run([script], "b work\nc\np 'stopped'\nc\n", timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("'stopped'") == 1 and done.stdout.endswith("child 3 3\n")
