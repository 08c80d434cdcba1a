"""Stages at work: when they are passed, by which calls."""

import sys
import time
from typing import Any

from modpdb.breakpoints.locations import Spec
from modpdb.presets import StageSpec
from modpdb.presets.owners import code_key
from modpdb.presets.stages import Stage, Stopwatch

SPEC = StageSpec("run", (Spec(None, "*.run"),), (), "it runs")


class Base:
    def run(self, ask: Any) -> None:
        ask(sys._getframe())


class Derived(Base):
    def run(self, ask: Any) -> None:
        ask(sys._getframe())
        super().run(ask)


def stage() -> Stage:
    codes = {code_key(cls.run.__code__) for cls in (Base, Derived)}
    return Stage(SPEC, stops=True, codes=codes)


def test_first_and_last_time_of_the_outermost_calls() -> None:
    each = stage()
    asked: list[bool] = []
    one = Derived()
    one.run(lambda frame: asked.append(each.reached(frame)))
    first = each.first
    assert asked == [True, False] and each.calls == 1 and each.last == first > 0
    time.sleep(0.01)
    one.run(lambda frame: asked.append(each.reached(frame)))
    assert asked[2:] == [False, False] and each.calls == 2
    assert each.first == first and each.last - first >= 0.01


def test_a_copy_of_the_code_is_the_same_function() -> None:
    # What hooks a function on 3.11 puts a patched copy of its code into it.
    each = stage()
    original = Derived.run.__code__
    Derived.run.__code__ = original.replace(co_consts=(*original.co_consts, "patched"))
    try:
        Derived().run(each.reached)
    finally:
        Derived.run.__code__ = original
    assert each.calls == 1


def test_who_waits_for_a_stage_is_told() -> None:
    each = stage()
    told: list[str] = []
    each.passed.append(lambda frame: told.append(frame.f_code.co_qualname))
    Derived().run(each.reached)
    assert told == ["Derived.run"]


def test_standing_at_a_prompt_is_no_time_of_the_script() -> None:
    clock = Stopwatch()
    time.sleep(0.01)
    clock.stand()
    stood = clock.read()
    time.sleep(0.02)
    assert clock.read() == stood >= 0.01
    clock.run()
    clock.run()
    time.sleep(0.01)
    assert stood + 0.01 <= clock.read() < stood + 0.02 + 0.5


def test_the_table_shows_counts_and_times(modpdb_run, tmp_path) -> None:
    (tmp_path / "s.py").write_text(
        "import time\n"
        "class Model:\n"
        "    @classmethod\n"
        "    def from_pretrained(cls): return cls()\n"
        "time.sleep(0.3)\n"
        "Model.from_pretrained(); time.sleep(0.1); Model.from_pretrained()\n"
        "print('done')\n"
    )
    done = modpdb_run(["s.py"], "b 7\nc\nstages\nc\n", cwd=tmp_path)
    (row,) = [line.split() for line in done.stdout.splitlines() if "from_pretrained" in line]
    assert row[:3] == ["from_pretrained", "2", "×"] and row[4:6] + row[7:8] == ["s", "…", "s"]
    assert 0.3 <= float(row[3]) <= float(row[6]) < 30
