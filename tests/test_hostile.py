"""Objects that do all they can to disturb: the prompt comes back, and they are not even asked.

Promises 1 (a ghost) and 3 (it never dies on you) of the design.
"""

import bdb
import io
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from modpdb import ModPdb
from modpdb.presets import StageSpec
from modpdb.presets.stages import Stage
from modpdb.prompt.completion import PromptCompleter

ALIVE = "p 'alive'"
HOOKS = (
    *("__repr__", "__str__", "__format__", "__getattr__", "__getattribute__", "__dir__"),
    *("__eq__", "__ne__", "__lt__", "__hash__", "__len__", "__bool__", "__iter__", "__next__"),
    *("__getitem__", "__contains__", "__call__", "__index__", "__int__", "__float__"),
    *("__enter__", "__fspath__", "__array__", "__reduce_ex__", "__sizeof__"),
    *("__torch_function__", "__rich__", "__rich_repr__", "__rich_console__", "__pt_formatted_text__"),
)  # fmt: skip
META_HOOKS = (
    *("__repr__", "__str__", "__getattribute__", "__getattr__", "__eq__", "__ne__", "__hash__"),
    *("__instancecheck__", "__subclasscheck__", "__dir__", "__len__", "__bool__", "__iter__"),
    *("__contains__", "__format__"),
)

Answer = Callable[[], object]


class Witness:
    """Notes what is called, prints, and answers; only while it is awake."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.calls: list[str] = []
        self.awake = False

    def hook(self, name: str) -> Callable[..., object]:
        def called(*args: object, **kwargs: object) -> object:
            if not self.awake:
                return quiet(name, *args)
            self.calls.append(name)
            print("NOISE", name)
            print("NOISE", name, file=sys.stderr)
            return self.answer()

        return called


def quiet(name: str, *args: Any) -> object:
    """What object or type would have answered, for making the objects."""
    owner = type if isinstance(args[0], type) else object
    if name == "__getattr__":
        raise AttributeError(args[1])
    return getattr(owner, name)(*args) if hasattr(owner, name) else NotImplemented


def raises(error: type[BaseException]) -> Answer:
    def answer() -> object:
        raise error("hostile")

    return answer


def recurses() -> object:
    return recurses()


ANSWERS = {
    "Exception": raises(RuntimeError),
    "BaseException": raises(BaseException),
    "SystemExit": raises(SystemExit),
    "GeneratorExit": raises(GeneratorExit),
    "a number": lambda: 7,
    "None": lambda: None,
    "deep recursion": recurses,
}


def hostile_class(witness: Witness) -> type:
    """A class of which every hook, of instances and of the class, is *witness*'s."""

    class Descriptor:
        __get__ = witness.hook("descriptor.__get__")
        __set__ = witness.hook("descriptor.__set__")
        __repr__ = witness.hook("descriptor.__repr__")

    body: dict[str, Any] = {name: witness.hook(name) for name in HOOKS}
    body |= {
        "__class__": property(witness.hook("__class__")),
        "__dict__": property(witness.hook("__dict__")),
        "computed": property(witness.hook("computed")),
        "data": Descriptor(),
        "__slots__": ("slot", "__weakref__"),
    }
    asked: dict[str, Any] = {name: witness.hook(f"Meta.{name}") for name in META_HOOKS}
    for name in ("__mro__", "__dict__", "__name__", "__module__"):
        asked[name] = property(witness.hook(f"Meta.{name}"))
    meta = type("Meta", (type,), asked)
    return type.__call__(meta, "Hostile", (), body)


@pytest.fixture(params=ANSWERS)
def witness(request: pytest.FixtureRequest) -> Iterator[Witness]:
    witness = Witness(ANSWERS[request.param])
    yield witness
    witness.awake = False  # pytest looks at objects, too


def debug(function: Callable[[], object], *commands: str) -> str:
    """What the debugger prints while *function* runs under it with *commands* typed."""
    dbg = ModPdb(
        stdin=io.StringIO("".join(f"{line}\n" for line in commands)),
        stdout=io.StringIO(),
        nosigint=True,
        readrc=False,
    )
    dbg.runcall(function)
    return dbg.stdout.getvalue()


class Session:
    """A stop in a method of a hostile object, with more of them among the locals."""

    def __init__(self, witness: Witness, thing: object) -> None:
        self.witness = witness
        self.thing = thing

    def program(self) -> object:
        def method(self: object, thing: object, *rest: object, cls: object = None) -> object:
            items = [thing, {"key": thing}, (thing,)]  # noqa: F841
            holder = SimpleNamespace(thing=thing, rest=rest)  # noqa: F841
            return thing

        return method(self.thing, self.thing, self.thing, cls=type(self.thing))

    def answers(self, *commands: str) -> list[str]:
        """What each command says at the stop, *commands* typed in turn."""
        self.witness.awake = True
        try:
            said = debug(self.program, "s", "s", "n", "n", "n", *commands)
        finally:
            self.witness.awake = False
        replies = [part.strip("\n") for part in said.split("(ModPdb) ")]
        assert "method()\n-> return thing" in replies[5]
        return replies[6:]


@pytest.fixture
def session(witness: Witness) -> Session:
    return Session(witness, hostile_class(witness)())


OWN = (
    *("locals", "args", "modules", "params", "buffers", "linear-path", "stages", "help"),
    *("modules thing", "params thing", "buffers thing", "linear-path thing", "lp thing, thing"),
    *("call-path", "call-path thing", "cp cls", "cp method, thing", "cp len, thing"),
    *("modules cls", "params *.weight", "modules -t Linear", "params --stats items"),
    *("info locals", "info args", "info stack", "info stages"),
    *("w", "up", "down", "ll", "l", "stage nothing"),
    *("state", "state thing", "state --run thing", "state thing against thing", "skeleton thing"),
    *("record stop", "activations thing", "compare-runs thing, cls"),
    *("hooks", "internals", "params --untracked", "hooks thing", "internals cls"),
    *("attr thing.x", "attr thing.computed", "attr thing.data", "attr thing.slot", "attr cls.x"),
    *("attr cls.computed", "attr items.append", "attr holder.thing", "attr thing", "attr"),
    *(
        "ckpt",
        "ckpt thing",
        "ckpt --shared items",
        "gguf",
        "gguf kv thing",
        "hparams",
        "hparams thing",
    ),
)
PDBS = (
    *("p thing", "pp thing", "pp items", "whatis thing", "thing", "p thing.computed", "thing == 1"),
    *("display thing", "display items", "thing?", "thing??", "source thing", "p cls", "cls?"),
    *("whatis cls", "thing.computed", "!thing", "thing = thing", "for k in thing: pass", "p f'{thing}'"),
    *("b thing", "b thing.computed", "b method, thing", "tbreak thing.x", "break_on_setattr x, thing"),
    *("modules thing.computed.x", "params thing()", "lp thing[0], thing.x", "undisplay thing", "retval", "until thing", "longlist", "alias x p thing ;; x"),
)  # fmt: skip


@pytest.mark.parametrize("line", OWN)
def test_our_commands_ask_for_the_repr_at_most(
    session: Session, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reply, alive, *_ = session.answers(line, ALIVE, "c")
    assert alive == "'alive'"
    assert reply and "Traceback" not in reply and "NOISE" not in reply
    assert set(session.witness.calls) <= {"__repr__", "Meta.__repr__"}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("line", PDBS)
def test_pdbs_commands_give_the_prompt_back(session: Session, line: str) -> None:
    replies = session.answers(line, "", ALIVE, "locals", ALIVE, "c")
    assert replies.count("'alive'") == 2


def test_stops_do_not_ask(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    replies = session.answers("r", ALIVE, "up", "n", ALIVE, "c")
    assert "--Return--" in replies[0] and "()->" in replies[0]
    assert replies.count("'alive'") == 2
    assert set(session.witness.calls) <= {"__repr__"}
    assert capsys.readouterr() == ("", "")


def test_a_condition_that_raises_stops_and_says_so() -> None:
    def program() -> int:
        done = function(1)
        return done  # noqa: RET504

    def function(n: int) -> int:
        return n

    for error in ("RuntimeError", "SystemExit", "GeneratorExit"):
        said = debug(program, f"b function, (_ for _ in ()).throw({error}('hostile'))", "c", ALIVE, "cl 1", "c")  # fmt: skip
        bdb.Breakpoint.clearBreakpoints()
        assert f"*** condition of breakpoint 1: {error}: hostile" in said and "'alive'" in said


def test_control_characters_are_escaped_wherever_a_name_is_said() -> None:
    def program() -> None:
        name = "\x1b[31mred\x07"

        class Named:
            def __repr__(self) -> str:
                return name

        thing = Named()
        error = ValueError(name)
        _ = thing, error

    lines = (
        "locals",
        "args",
        "info locals",
        "display thing",
        "raise error",
        "linear-path " + "\x1b[31m",
    )
    said = debug(program, *["n"] * 5, *lines, f"modules {lines[-1]}", "c")
    assert "\\x1b[31mred\\x07" in said and "ValueError: \\x1b[31mred\\x07" in said
    assert "\x1b" not in said and "\x07" not in said


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, BaseException])
def test_display_survives_a_comparison(error: type[BaseException]) -> None:
    witness = Witness(raises(error))

    def program() -> None:
        thing = hostile_class(witness)()
        thing = hostile_class(witness)()
        _ = thing

    witness.awake = True
    said = debug(program, "n", "display thing", "n", ALIVE, "c")
    witness.awake = False
    assert said.count("-->") == 1 and "'alive'" in said


def test_completion_asks_nothing(witness: Witness) -> None:
    def stop(thing: object, cls: object) -> Any:
        return sys._getframe()

    thing = hostile_class(witness)()
    dbg = ModPdb(stdin=io.StringIO(), stdout=io.StringIO(), nosigint=True, readrc=False)
    dbg.setup(stop(thing, type(thing)), None)
    completer = PromptCompleter(dbg)
    witness.awake = True
    offered = {}
    for text in (
        "p thing.",
        "p thing.computed.",
        "p thing.data.",
        "p cls.",
        "p cls.data.x",
        "modules ",
    ):
        found = completer.get_completions(Document(text), CompleteEvent())
        offered[text] = [each.text for each in found]
    witness.awake = False
    assert offered["p thing."] == ["computed", "data", "slot"]
    assert offered["p thing.computed."] == [] and "computed" in offered["p cls."]
    assert witness.calls == []


# -- interrupts ------------------------------------------------------------------------------------


class Hanging:
    """Hangs, and the user presses Ctrl-C. Counts how often it did."""

    hung = 0

    def hang(self, *other: object) -> Any:
        Hanging.hung += 1
        signal.raise_signal(signal.SIGINT)
        time.sleep(60)

    __repr__ = __ne__ = __eq__ = __getattr__ = __len__ = __bool__ = hang
    __hash__ = None  # type: ignore[assignment]


def holds_hanging() -> None:
    thing = Hanging()
    again = [thing]
    thing = Hanging()
    _ = again


@pytest.mark.parametrize(
    "line",
    ["locals", "args", "p thing", "pp again", "display thing", "thing == 1", "modules thing.x"]
    + ["whatis thing", "params again[0] == 1", "thing?", "p bool(thing)", "info locals", "thing.x"],
)
def test_ctrl_c_ends_a_command(line: str) -> None:
    said = debug(holds_hanging, "n", "n", "n", line, ALIVE, "c")
    assert "'alive'" in said


def test_ctrl_c_in_what_is_displayed_at_a_stop() -> None:
    Hanging.hung = 0
    said = debug(holds_hanging, "n", "n", "display thing", "n", ALIVE, ALIVE, "c")
    assert said.count("'alive'") == 2 and Hanging.hung == 2


# -- the stages' look at `self` --------------------------------------------------------------------


def test_a_stage_does_not_ask_self(witness: Witness) -> None:
    def entered(self: object) -> Any:
        return sys._getframe()

    stage = Stage(StageSpec("s", (), ("slot", "computed", "data"), "says"), stops=True)
    other = Stage(StageSpec("s", (), ("nothing_of_the_kind",), "says"), stops=True)
    frame = entered(hostile_class(witness)())
    witness.awake = True
    assert [stage.reached(frame), stage.reached(frame), other.reached(frame)] == [
        True,
        False,
        False,
    ]
    assert witness.calls == []


# -- modules ---------------------------------------------------------------------------------------


def hostile_linear(witness: Witness) -> Any:
    """An nn.Linear in an nn.Module, both of which answer by *witness* once they are made."""
    torch = pytest.importorskip("torch")
    names = [name for name in HOOKS if name not in ("__torch_function__", "__hash__", "__eq__")]
    names += ["forward", "extra_repr", "parameters", "named_parameters", "named_modules", "buffers"]
    names += ["children", "state_dict", "_named_members", "_get_name", "register_forward_hook"]
    body: dict[str, Any] = {}
    for name in names:
        body[name] = passing(witness, name, getattr(torch.nn.Module, name, None))
    body["computed"] = property(witness.hook("computed"))
    body["__class__"] = property(lambda self: passing(witness, "__class__", type)(self))
    linear = type("HostileLinear", (torch.nn.Linear,), {**body})(3, 2)
    linear.register_forward_hook(hostile_class(witness)())
    linear.bias.register_hook(hostile_class(witness)())
    vars(linear)["held"] = [hostile_class(witness)(), {"key": hostile_class(witness)()}]
    type(linear).weight = hostile_class(witness)()
    outer = type("HostileModule", (torch.nn.Module,), {**body})()
    outer.layer = linear
    return outer


def passing(witness: Witness, name: str, inherited: Any) -> Callable[..., object]:
    """Torch's own while the module is made, then the witness's."""
    hook = witness.hook(name)

    def called(*args: Any, **kwargs: Any) -> object:
        if witness.awake or inherited is None:
            return hook(*args, **kwargs)
        return inherited(*args, **kwargs)

    return called


MODULE_LINES = (
    *("modules", "modules thing", "modules layer", "modules --unfold -d 1", "modules -t *Linear"),
    *("params", "params --stats thing", "params layer.*", "buffers", "locals", "args"),
    *("linear-path", "lp layer", "lp layer, x", "lp thing.layer if 0 else self", "display self"),
    *("call-path", "cp layer", "cp layer, thing", "cp --run thing", "cp self, thing, x=layer"),
    *("info locals", "w", "up"),
    *("hooks", "hooks layer", "hooks *", "internals", "internals layer", "params --untracked"),
    *("params --untracked layer", "attr layer.weight", "attr self.layer", "attr thing.computed"),
    *("attr layer.bias", "attr layer.nothing", "attr self.forward"),
    *("ckpt", "gguf", "hparams"),
)


@pytest.mark.parametrize("line", MODULE_LINES)
def test_modules_are_not_asked(
    witness: Witness, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outer = hostile_linear(witness)
    reply, alive, *_ = Session(witness, outer).answers(line, ALIVE, "c")
    assert alive == "'alive'" and reply
    assert witness.calls == []
    assert capsys.readouterr() == ("", "")
