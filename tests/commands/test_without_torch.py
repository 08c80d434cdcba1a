"""Our commands in a script that never imports torch."""

from pathlib import Path


def test_without_torch_there_is_a_sentence(modpdb_run, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("import sys\nvalue = 3\n")
    commands = [
        "modules",
        "params",
        "buffers",
        "linear-path value",
        "n",
        "p 'torch' in sys.modules",
    ]
    done = modpdb_run(["s.py"], "\n".join([*commands, "c", ""]), cwd=tmp_path)
    looked = "*** no modules here: looked at the variables of <module>(), and at what `self` holds"
    assert done.stdout.count(looked) == 4
    assert "(ModPdb) False\n" in done.stdout and done.returncode == 0
