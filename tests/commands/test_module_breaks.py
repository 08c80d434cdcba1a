"""`break-module`, `b @GLOB` and `into` on modules of our own."""

import bdb
import contextlib
import functools
import io
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modpdb import ModPdb
from modpdb.breakpoints.books import named_breakpoints
from modpdb.commands.tensor_breaks import never_met

torch = pytest.importorskip("torch")
X = torch.ones(1, 2)


def named(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def unnamed(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(self: Any, *args: Any) -> Any:
        return function(self, *args)

    return wrapper


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = torch.nn.Linear(2, 2)

    @named
    def forward(self, x):
        y = self.proj(x)
        return y + 0


class Local(Attention):
    @unnamed
    def forward(self, x):
        return super().forward(x)


class Block(torch.nn.Module):
    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attn = attention
        self.act = torch.nn.ReLU()

    def forward(self, x):
        return self.act(self.attn(x))


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(Attention()), Block(Local()), Block(Attention())])
        self.tied = self.blocks[0].act
        self.blocks[2].act = self.tied

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.tied(x)


STOP = re.compile(r"^((?:[\w.]+  )?\w+\.forward)\n-> (.*)$", re.MULTILINE)


def run(function: Callable[[], object], *commands: str) -> tuple[list[str], list[str]]:
    """What each command printed while *function* ran under the debugger, and what was said of
    breakpoints at its end."""
    stdin = io.StringIO("".join(f"{line}\n" for line in commands))
    dbg = ModPdb(stdin=stdin, stdout=io.StringIO(), nosigint=True, readrc=False)
    dbg.runcall(function)
    dbg.plain_input()
    assert dbg.input_at_end(), stdin.read()
    end = [*dbg.never_found(), *never_met()]
    for each in named_breakpoints():
        each.deleteMe()  # else torch's own code would stay hooked for the tests that follow
    dbg.settle()
    return [part.strip("\n") for part in dbg.stdout.getvalue().split("(ModPdb) ")[1:]], end


def stops(said: list[str]) -> list[str]:
    """Path and class of every stop in a forward."""
    return [place for part in said for place, _ in STOP.findall(part)]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def built() -> None:
    model = Model()
    x = torch.ones(1, 2)
    model(x)
    model(x)


def test_one_breakpoint_for_all_that_a_glob_means() -> None:
    said, end = run(
        *(built, "n", "n", "n", "b @blocks.*.attn", "b", "c", "p self.proj, x.shape", "c", "c"),
        *("clear @blocks.*.attn", "c"),
    )
    assert said[3:5] == [
        "Breakpoint 1 at @blocks.*.attn: 3 modules\n"
        "    blocks.{0, 2}.attn  Attention\n"
        "    blocks.1.attn       Local",
        "Num Type         Disp Enb   Where\n1   breakpoint   keep yes  @blocks.*.attn  3 modules",
    ]
    # Below the decorators, of either kind, at the first line; super().forward() is no second stop.
    assert [found for part in said[5:] for found in STOP.findall(part)] == [
        ("blocks.0.attn  Attention.forward", "y = self.proj(x)"),
        ("blocks.1.attn  Local.forward", "return super().forward(x)"),
        ("blocks.2.attn  Attention.forward", "y = self.proj(x)"),
    ]
    assert said[6] == "(Linear(in_features=2, out_features=2, bias=True), torch.Size([1, 2]))"
    assert end == []


def test_pdbs_commands_work_on_it() -> None:
    said, _ = run(
        *(built, "n", "n", "tbreak @attn, 'Local' in type(self).__name__", "b @1.attn.proj"),
        *("b @blocks.0", "ignore 3 1", "break-module --temporary model.blocks.2.act"),
        *("b @blocks.1.act, y is None", "disable 2", "enable 2"),
        *("commands 2", "silent", "p 'ran'", "end", "b", *["c"] * 7),
    )
    assert "Breakpoint 4 at @model.blocks.2.act: 1 module" in said[6]
    assert "    blocks.0.act  ReLU  also blocks.2.act, tied" in said[6]
    [listed] = [part for part in said if part.startswith("Num")]
    assert "\tstop only if 'Local' in type(self).__name__" in listed
    assert "\tignore next 1 hits" in listed and "del  yes  @model.blocks.2.act  1 mod" in listed
    stopped = said[said.index(listed) + 1 :]
    assert stops(stopped) == [
        *("blocks.0.act  ReLU.forward", "blocks.1.attn  Local.forward"),
        *("blocks.1.act  ReLU.forward", "blocks.0  Block.forward"),
        "blocks.1.act  ReLU.forward",
    ]
    assert "Deleted breakpoint 1 at @attn" in stopped[1]
    assert stopped[2].startswith("'ran'")
    assert "condition of breakpoint 5: NameError: name 'y' is not defined" in stopped[3]


def test_it_is_saved_as_it_would_be_typed(tmp_path: Path) -> None:
    said, _ = run(
        *(built, "break-module --temporary attn, x is None", "b @0", f"save-breaks {tmp_path}/rc"),
        "c",
    )
    assert said[2].splitlines()[1:] == [
        "  break-module --temporary attn, x is None",
        "  break-module 0",
    ]


def comes_later() -> None:
    def build() -> None:
        model = Model()
        model(X)
        model.more = Block(Attention())
        model.forward = lambda x: model.more(x)
        model(X)

    build()
    build()


def test_models_to_come_are_found_when_they_are_called() -> None:
    said, end = run(
        *(comes_later, "b @blocks.1.attn", "b @more", "b @blocks.9.attn", "b @nowhere", "b"),
        *["c"] * 5,
    )
    assert said[0] == "Breakpoint 1 pending: no model is there yet"
    assert "@blocks.1.attn  pending: no model is there yet" in said[4]
    text = "\n".join(said)
    assert text.count("Breakpoint 1 at @blocks.1.attn: 1 module\n    blocks.1.attn  Local\n") == 1
    assert text.count("Breakpoint 2 at @more: 1 module\n    more  Block\n") == 1
    assert stops(said) == ["blocks.1.attn  Local.forward", "more  Block.forward"] * 2
    assert end == [
        "breakpoint 3 at @blocks.9.attn was never reached: no module of that path came; "
        "near: blocks.0.attn, blocks.1.attn, blocks.2.attn",
        "breakpoint 4 at @nowhere was never reached: no module of that path came",
    ]


def wrapped_later() -> None:
    part = Block(Attention())
    part(X)
    whole = torch.nn.Sequential(part)
    whole(X)


def test_a_new_root_gives_new_paths() -> None:
    said, _ = run(wrapped_later, "b @attn", "c", "w", "c", "w", "c")
    assert stops(said) == ["attn  Attention.forward", "0.attn  Attention.forward"]
    assert "      Block.forward\n" in said[2]
    assert "      Sequential.forward\n" in said[4] and "      0  Block.forward\n" in said[4]


class Builtin(torch.nn.Module):
    forward = staticmethod(torch.relu)


def test_what_has_no_line_of_python_to_stop_at() -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    made = (
        *(torch.jit.script(inner), torch.compile(inner, backend="eager"), Builtin()),
        torch.nn.ModuleDict({"some": torch.nn.ModuleList()}),
    )

    def program() -> None:
        scripted, compiled, builtin, containers = made
        builtin(X), scripted(X)
        del compiled, containers

    said, end = run(
        *(program, "n", "b @scripted", "b @compiled", "b @builtin", "b @containers.some"),
        *("b @scripted.0", "b", "c"),
    )
    assert [part.partition("cannot stop there\n    ")[2] for part in said[1:6]] == [
        "the whole model  is scripted: TorchScript runs its forward, no line of Python",
        'the whole model  is compiled: torch.compiler.set_stance("force_eager") lets Python run '
        "its forward",
        "the whole model  has no forward in Python: it is a staticmethod",
        "some  is a ModuleList, which has no forward to be called",
        "0  is scripted: TorchScript runs its forward, no line of Python",
    ]
    assert "4   breakpoint   keep yes  @containers.some  it cannot stop there\n" in said[6]
    assert stops(said) == []
    assert end[-1] == (
        "breakpoint 5 at @scripted.0 was never reached: 0 is scripted: TorchScript runs its "
        "forward, no line of Python"
    )


def part_by_part() -> None:
    model = Model()
    x = torch.ones(1, 2)
    for block in model.blocks:
        x = block(x)


def test_a_model_whose_parts_are_called_one_by_one() -> None:
    """It is never called itself: it is found where a caller holds it."""
    said, end = run(part_by_part, "b @blocks.1.attn", "c", "c")
    assert stops(said) == ["blocks.1.attn  Local.forward"] and end == []


def forced_eager() -> None:
    compiled = torch.compile(Block(Attention()), backend="eager")
    compiled.eval()
    with torch.compiler.set_stance("force_eager"):
        compiled(X)


def test_what_is_inside_a_compiled_module_says_so() -> None:
    said, _ = run(forced_eager, "n", "n", "b @proj", "into", "into", "c")
    assert "_orig_mod.attn.proj  is inside a module that is compiled: " in said[2]
    assert stops(said)[0].endswith("Block.forward"), said


def replaced() -> None:
    model = Model()
    old = model.blocks[0].forward

    @functools.wraps(old)
    def hooked(*args: Any) -> Any:
        return old(*args)

    model.blocks[0].forward = hooked
    model.blocks[1].forward = lambda x: x
    model.blocks[2].forward = functools.update_wrapper(
        functools.partial(lambda module, x: x, model.blocks[2]), model.blocks[2].forward
    )
    model.tied.forward = Replacement().forward
    model(X)


class Replacement(torch.nn.Module):
    def forward(self, x):
        return x


def test_forwards_put_into_an_instance() -> None:
    said, _ = run(replaced, "b @blocks.1", "b @blocks.0", "c", "w", "c", "b @tied", "c", "c")
    assert stops(said) == ["blocks.0  Block.forward"]
    assert "forward()\n-> return x" in said[6]
    assert "<lambda>()\n-> model.blocks[1].forward = lambda x: x" in said[4]


def in_two_threads() -> None:
    model, other = Model(), Model()
    beside = Attention()
    model.blocks[1].register_forward_pre_hook(lambda module, args: (beside(args[0]),))
    thread = threading.Thread(target=lambda: [other(X) for _ in range(3)])
    thread.start()
    model(X)
    thread.join()


def test_into_follows_the_calls_of_this_thread() -> None:
    steps = ["n"] * 5
    said, _ = run(in_two_threads, *steps, *["into"] * 16)
    want = ["Model.forward"]
    for number, kind in enumerate(("Attention", "Local", "Attention")):
        if number == 1:  # what the hook calls is a module too, of no model
            want += ["Attention.forward", "proj  Linear.forward"]
        want += [f"blocks.{number}  Block.forward", f"blocks.{number}.attn  {kind}.forward"]
        want += [f"blocks.{number}.attn.proj  Linear.forward"]
        want += [f"blocks.{number if number == 1 else 0}.act  ReLU.forward"]
    assert stops(said) == [*want, "blocks.0.act  ReLU.forward"]


def test_into_lets_other_breakpoints_stop() -> None:
    line = built.__code__.co_firstlineno + 4
    said, _ = run(
        *(built, "n", "n", f"tbreak {line}", "b @blocks.0.attn", "into", "into", "into"),
        *("clear 2", "c", "into 3", "into", "c"),
    )
    assert stops(said) == [
        *("Model.forward", "blocks.0  Block.forward", "blocks.0.attn  Attention.forward"),
        "Model.forward",
    ]
    assert said[8].endswith("-> model(x)") or "-> model(x)" in said[8]
    assert said[9] == "*** into takes nothing; `b @3` stops at that module"


def test_step_goes_from_a_call_to_its_forward() -> None:
    """To its first line, as `into`: pdb's stop at the call is left out."""
    said, _ = run(built, "n", "n", "n", "s", "s", "s", "r", "s", "c")
    assert "--Call--" not in said[3] and "Model.forward\n-> for block in self.blocks:" in said[3]
    assert "-> x = block(x)" in said[4]
    assert "blocks.0  Block.forward\n-> return self.act(self.attn(x))" in said[5]
    assert "--Return--" in said[6]
    assert "Model.forward\n-> for block in self.blocks:" in said[7]


def test_raw_steps_show_torchs_own() -> None:
    said, _ = run(built, "n", "n", "n", "s --raw", "w", "c")
    assert "_wrapped_call_impl()" in said[3] and "_wrapped_call_impl" in said[4]


def moved() -> None:
    model = Model()
    model(X)
    model.later = model.blocks
    del model.blocks
    model.forward = lambda x: model.later[1](x)
    model(X)


def test_a_path_is_that_of_today() -> None:
    said, _ = run(moved, "b @attn, type(self) is Local", "c", "c", "w", "c")
    assert stops(said) == ["blocks.1.attn  Local.forward", "later.1.attn  Local.forward"]
    assert "      later.1  Block.forward\n" in said[3]


def fails() -> None:
    model = Model()
    model(torch.ones(1, 3))


def test_post_mortem_shows_paths_too() -> None:
    stdin, stdout = io.StringIO("w\nq\n"), io.StringIO()
    dbg = ModPdb(stdin=stdin, stdout=stdout, nosigint=True, readrc=False)
    with pytest.raises(RuntimeError) as caught:
        fails()
    with contextlib.suppress(BaseException):
        dbg.post_mortem(caught.value)
    assert "\nblocks.0.attn.proj  Linear.forward\n-> return F.linear" in stdout.getvalue()
    assert "      blocks.0  Block.forward\n" in stdout.getvalue()


def test_frames_are_hidden_and_paths_shown() -> None:
    said, _ = run(
        *(built, "b @blocks.1.attn.proj", "c", "up", "w", "hf_unhide", "w", "hf_hide", "up", "c"),
    )
    assert "8 frames hidden" in said[1]
    assert "blocks.1.attn  Local.forward\n-> return super().forward(x)" not in said[2]
    assert "blocks.1.attn  Local.forward\n-> y = self.proj(x)" in said[2]
    paths = re.findall(r"^ +((?:blocks\S*  )?\w+\.forward)$", said[3], re.MULTILINE)
    assert paths == [
        *("Model.forward", "blocks.1  Block.forward", "blocks.1.attn  Local.forward"),
        *("blocks.1.attn  Local.forward", "blocks.1.attn.proj  Linear.forward"),
    ]
    assert "_call_impl()" in said[5] and "_call_impl()" not in said[3]
    assert "modpdb/tracing.py" not in said[5]


def test_hooks_of_ours_are_in_no_module_and_in_no_code_after() -> None:
    model = Model()
    call = torch.nn.Module.__call__
    codes = [call.__code__, Block.forward.__code__, torch.nn.Linear.forward.__code__]
    rng, keys = torch.get_rng_state(), list(model.state_dict())
    held = {id(module): set(vars(module)) for module in model.modules()}

    def program() -> None:
        model(X)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert held == {id(module): set(vars(module)) for module in model.modules()}

    said, _ = run(
        program, "b @*, self is None", "b @never", "into", "n", "n", "n", "clear 1 2", "n", "c"
    )
    assert "Breakpoint 1 at @*: 12 modules" in "\n".join(said) or "at @*" in said[0] + said[2]
    assert codes == [call.__code__, Block.forward.__code__, torch.nn.Linear.forward.__code__]
    assert torch.equal(torch.get_rng_state(), rng) and list(model.state_dict()) == keys


SAFE = """\
import copy, io, pickle, torch, warnings
torch.set_grad_enabled(False)
class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Linear(2, 2)
    def forward(self, x):
        return self.proj(x).relu()
model, x = torch.nn.Sequential(Block(), Block()), torch.ones(1, 2)
want = model(x)
copied = copy.deepcopy(model)
file = io.BytesIO()
torch.save(model.state_dict(), file)
assert b"modpdb" not in file.getvalue() + pickle.dumps(model)
assert torch.equal(copied(x), want)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    assert torch.equal(torch.jit.script(model)(x), want)
    assert torch.equal(torch.jit.trace(model, x)(x), want)
assert torch.equal(torch.fx.symbolic_trace(model)(x), want)
assert torch.equal(torch.compile(model, backend="eager")(x), want)
other = torch.nn.Sequential(torch.nn.Linear(2, 2))
assert torch.equal(torch.compile(other, backend="eager", fullgraph=True)(x), other(x))
print("done")
"""


def test_a_model_is_copied_pickled_scripted_traced_and_compiled_meanwhile(
    modpdb_run: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SAFE)
    typed = "tbreak 11\nc\nb @proj, input is None\nb @0.nothing\nc\n"
    done = modpdb_run(["script.py"], typed, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout + done.stderr
    assert "Breakpoint 2 at @proj: 2 modules" in done.stdout
    assert done.stderr == (
        "modpdb: breakpoint 3 at @0.nothing was never reached: no module of that path came\n"
    )


COMPILED = """\
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Linear(2, 2)
    def forward(self, x):
        return self.proj(x).relu()
model, x = Model(), torch.ones(1, 2)
compiled = torch.compile(model, backend="eager")
compiled(x)
print("done")
"""


@pytest.mark.parametrize("stop", ["b Model.forward", "b @proj", "break-nan"])
def test_torch_compile_is_kept_from_compiling_the_prompt(
    modpdb_run: Callable[..., Any], tmp_path: Path, stop: str
) -> None:
    (tmp_path / "script.py").write_text(COMPILED)
    done = modpdb_run(["script.py"], f"b 9\nc\n{stop}\nc\nw\np 1 + 1\nc\nc\n", cwd=tmp_path)
    assert done.returncode == 0 and "done\n" in done.stdout, done.stdout + done.stderr
    assert "Dynamo" not in done.stdout + done.stderr
    assert stop == "break-nan" or re.search(r"^_orig_mod\S*  \w+.forward$", done.stdout, re.M)


THREADS = """\
import threading, torch
model = torch.nn.Sequential(torch.nn.Linear(2, 2))
begin = threading.Barrier(4)
def work():
    begin.wait()
    model(torch.ones(1, 2))
threads = [threading.Thread(target=work) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
"""


def test_a_model_that_several_threads_call_at_once_is_met_in_each(
    modpdb_run: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(THREADS)
    done = modpdb_run(["script.py"], "b @0\n" + "c\n" * 5, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^0  Linear.forward$", done.stdout, re.M)) == 4


class Hostile(torch.nn.Module):
    def __init__(self, ready: bool = True) -> None:
        if ready:
            super().__init__()
            self.inner = torch.nn.Linear(2, 2)

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __len__(self) -> int:
        raise RuntimeError("len")

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    @property
    def weight(self) -> None:
        raise RuntimeError("weight")

    def forward(self, x):
        return self.inner(x)


class Holder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hostile = Hostile()
        self.register_module("a\x1b[31m", torch.nn.ReLU())

    def forward(self, x):
        half = Hostile(ready=False)
        x = getattr(self, "a\x1b[31m")(self.hostile(x))
        del half
        return x


def hostile() -> None:
    holder = Holder()
    holder(X)


def test_hostile_modules() -> None:
    said, end = run(hostile, "b @hostile", "b @a*", "b @*.weight", "c", "w", "c", "w", "into")
    assert stops(said)[0] == "hostile  Hostile.forward"
    assert "a\\x1b[31m  ReLU" in "".join(said) and "\x1b" not in "".join(said)
    assert end == ["breakpoint 3 at @*.weight was never reached: no module of that path came"]


def test_bad_input_is_one_sentence() -> None:
    said, _ = run(built, "b @", "break-module", "b @x, 1 +", "break-module --once x", "c")
    assert said[:4] == [
        "*** @ needs a path or glob of modules after it: b @GLOB[, CONDITION]",
        "*** break-module needs a path or glob: break-module GLOB[, CONDITION]",
        "*** condition '1 +': invalid syntax",
        "*** break-module has no option --once; it takes --temporary",
    ]


def test_paths_are_completed() -> None:
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    from modpdb.prompt.completion import PromptCompleter

    dbg = ModPdb(stdin=io.StringIO(), stdout=io.StringIO(), nosigint=True, readrc=False)
    model = Model()
    dbg.setup(sys._getframe(), None)
    offered = PromptCompleter(dbg).get_completions(Document("b @blocks.1.at"), CompleteEvent())
    assert [each.text for each in offered] == ["blocks.1.attn", "blocks.1.attn.proj"]
    assert len(bdb.Breakpoint.bpbynumber) == 1 and model


def test_without_torch_nothing_is_imported(modpdb_run, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import sys\nx = 1\nprint([m for m in sys.modules if m.startswith('torch')])\n"
    )
    done = modpdb_run(["script.py"], "n\nb @layers\ns\nw\ninto\n", cwd=tmp_path)
    assert done.stdout.endswith("[]\n"), done.stdout
    assert (
        done.stderr == "modpdb: breakpoint 1 at @layers was never reached: no module was called\n"
    )
