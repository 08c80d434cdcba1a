"""What Tab offers, and that nothing of the script's runs for it."""

import io
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from modpdb import ModPdb
from modpdb.breakpoints.locations import Spec
from modpdb.presets import Preset, StageSpec, preset_named
from modpdb.presets.stages import Stages
from modpdb.prompt.completion import PromptCompleter

Complete = Callable[[str], list[str]]


def stopped_in(frame: Any) -> ModPdb:
    dbg = ModPdb(stdin=io.StringIO(), stdout=io.StringIO(), nosigint=True, readrc=False)
    if frame is not None:
        dbg.setup(frame, None)
    return dbg


def complete(dbg: ModPdb, text: str) -> list[str]:
    """The lines that *text* may become."""
    offered = PromptCompleter(dbg).get_completions(Document(text), CompleteEvent())
    return [text[: len(text) + each.start_position] + each.text for each in offered]


class Thing:
    """Says what of it is run."""

    shared = 1
    ran: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.own = SimpleNamespace(deeper=1)
        self._hidden = 2

    @property
    def computed(self) -> "Thing":
        Thing.ran.append("computed")
        return self

    def method(self) -> None: ...

    def __getattr__(self, name: str) -> object:
        Thing.ran.append(f"__getattr__ {name}")
        raise SystemExit

    def __dir__(self) -> list[str]:
        Thing.ran.append("__dir__")
        raise SystemExit


@pytest.fixture
def here() -> Complete:
    """Completes at a stop in a function with a few variables."""

    def function() -> Any:
        thing = Thing()
        params = modified = names = 1
        _ = thing, params, modified, names
        return sys._getframe()

    dbg = stopped_in(function())
    Thing.ran.clear()
    return lambda text: complete(dbg, text)


def test_commands_before_variables(here: Complete) -> None:
    assert here("mod") == ["mods", "modules", "modified"]
    assert here("param") == ["params"]  # command and variable: once
    assert here("linear-") == ["linear-path"]
    assert "until" in here("un") and "longlist" in here("longl")
    assert here("") == [] and here("zzz") == []


def test_before_there_is_a_frame() -> None:
    dbg = stopped_in(None)
    assert complete(dbg, "linear") == ["linear-path"]
    assert (
        complete(dbg, "modules la") == complete(dbg, "p thing.o") == complete(dbg, "info s x") == []
    )


def test_options_and_nothing_else(here: Complete) -> None:
    assert here("modules -") == [
        "modules -d",
        "modules -t",
        "modules --unfold",
        "modules --skeleton",
    ]
    assert here("modules --u") == ["modules --unfold"]
    assert here("modules -d 2 --u") == ["modules -d 2 --unfold"]
    assert here("locals --u") == []


def test_words_of_info_stage_and_help(here: Complete) -> None:
    assert here("info br") == ["info breakpoints"]
    assert here("help lin") == ["help linear-path"]

    dbg = stopped_in(sys._getframe())
    specs = tuple(StageSpec(name, (Spec(None, "f"),), (), "") for name in ("load", "modify"))
    preset = Preset("p", (), (), specs, file=None)  # type: ignore[arg-type]
    dbg.stages = Stages(preset, dbg.engine, dbg.locator)
    assert complete(dbg, "stage mo") == ["stage modify"]


def test_attributes_without_running_anything(here: Complete) -> None:
    assert here("p thing.o") == ["p thing.own"]
    assert here("p thing.own.d") == ["p thing.own.deeper"]
    assert here("p thing.") == [
        f"p thing.{each}" for each in ("computed", "method", "own", "ran", "shared")
    ]
    assert here("p thing.comp") == ["p thing.computed"]
    assert here("p thing.computed.o") == []  # would have to be computed
    assert here("p thing.missing.o") == []
    assert here("thing.sh") == ["thing.shared"]
    assert here("!thing.me") == ["!thing.method"]
    assert here("x = thing._h") == ["x = thing._hidden"]
    assert Thing.ran == []


def test_classes_and_imported_modules(here: Complete) -> None:
    assert here("p Thing.sha") == ["p Thing.shared"]
    assert here("p os.path.joi") == [f"p {os.__name__}.path.join"]


def test_within_an_expression(here: Complete) -> None:
    assert here("p [thing.o") == ["p [thing.own"]
    assert here("p len(na") == ["p len(names"]
    assert here("p thing[0].o") == here("p f().o") == here("p 'x'.o") == []


def test_after_two_semicolons(here: Complete) -> None:
    assert here("p 1 ;; linear-") == ["p 1 ;; linear-path"]
    assert here("p 1;;modules --u") == ["p 1;;modules --unfold"]


def test_in_a_block(here: Complete) -> None:
    assert here("for k in names:\n    thing.o") == ["for k in names:\n    thing.own"]
    assert here("for k in names:\n    linear-") == []


def test_odd_names_in_the_frame() -> None:
    frame = eval("__import__('sys')._getframe()", {"ok": 1, 7: 2, "__builtins__": __builtins__}, {})
    assert complete(stopped_in(frame), "p o") == ["p ok", "p or"]


# -- modules ---------------------------------------------------------------------------------------


@pytest.fixture
def in_module() -> Complete:
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(2)])
            self.register_buffer("scale", torch.ones(1))

        @property
        def computed(self) -> object:
            raise SystemExit("a property ran")

        def stop(self) -> Any:
            return sys._getframe()

    dbg = stopped_in(Model().stop())
    return lambda text: complete(dbg, text)


def test_module_paths(in_module: Complete) -> None:
    assert in_module("modules la") == ["modules layers", "modules layers.0", "modules layers.1"]
    assert in_module("linear-path --run layers.1") == ["linear-path --run layers.1"]
    assert in_module("params layers.0") == ["params layers.0"]


def test_what_a_module_registers(in_module: Complete) -> None:
    assert in_module("p self.la") == ["p self.layers"]
    assert in_module("p self.sc") == ["p self.scale"]
    assert in_module("modules self.la") == ["modules self.layers"]
    assert (
        in_module("p self.comput") == ["p self.computed"] and in_module("p self.computed.w") == []
    )
    assert "p self.layers.training" in in_module("p self.layers.t")


def test_names_of_the_checkpoint_that_is_converted(tmp_path: Any) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    name = "model.layers.0.self_attn.q_proj"
    save_file({f"{name}.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")

    class Gemma3Model:
        model_arch = "gemma3"

        def __init__(self) -> None:
            self.dir_model = tmp_path
            self.hparams: dict[str, int] = {}

        def modify_tensors(self) -> Any:
            return sys._getframe()

    dbg = stopped_in(Gemma3Model().modify_tensors())
    assert complete(dbg, "linear-path model.la") == [
        f"linear-path {name}",
        f"linear-path {name}.weight",
    ]


# -- places ----------------------------------------------------------------------------------------


class CompletedBase:
    def inherited_work(self) -> None: ...


class CompletedSub(CompletedBase):
    def own_work(self) -> None: ...


def completed_function() -> None: ...


def test_places_for_breakpoints(here: Complete, tmp_path: Any, monkeypatch: Any) -> None:
    assert here("b completed_f") == ["b completed_function"]
    assert here("tbreak CompletedSub.own") == ["tbreak CompletedSub.own_work"]
    assert here("b CompletedSub.inh") == ["b CompletedSub.inherited_work"]
    assert here("b test_completion:completed") == ["b test_completion:completed_function"]
    assert "b completed_function" in here("b ")
    assert here("b completed_function, th") == ["b completed_function, thing"]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file.py").write_text("")
    (tmp_path / "sub" / "other.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    assert "b sub/" in here("b su") and here("b sub/") == ["b sub/file.py:"]
    assert here("b nowhere/") == []
    assert Thing.ran == []


def test_names_of_tensors_on_both_sides() -> None:
    class NameMap:
        def __init__(self) -> None:
            self.mapping = {"model.layers.0.q": (1, "blk.0.attn_q")}

    class Model:
        model_arch = "x"

        def __init__(self) -> None:
            self.tensor_map = NameMap()
            self.model_tensors = {"model.layers.0.q.weight": None, "model.norm.weight": None}

        def stop(self) -> Any:
            return sys._getframe()

    dbg = stopped_in(Model().stop())
    dbg.stages = SimpleNamespace(preset=preset_named("llama.cpp"))  # `b @` means tensors there
    assert complete(dbg, "b @blk") == ["b @blk.0.attn_q.weight"]
    assert complete(dbg, "tbreak @model.n") == ["tbreak @model.norm.weight"]
    assert complete(dbg, "break-tensor model.") == [
        "break-tensor model.layers.0.q.weight",
        "break-tensor model.norm.weight",
    ]
    dbg = stopped_in(None)
    assert complete(dbg, "b @blk") == []
