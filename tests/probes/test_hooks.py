"""hook_report: every kind, in the order in which torch runs them, with nothing called."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from modpdb.probes.hooks import Hook, HookReport, call_hooks, hook_report


def on(module: nn.Module) -> dict[str, tuple[Hook, ...]]:
    return {each.path: each.hooks for each in hook_report([("", module)]).hooked}


def named(name: str, calls: list[str] | None = None) -> Callable[..., None]:
    def hook(*args: object, **kwargs: object) -> None:
        if calls is not None:
            calls.append(name)

    hook.__qualname__ = name
    return hook


REGISTER = {
    "forward pre-hook": "register_forward_pre_hook",
    "forward hook": "register_forward_hook",
    "backward pre-hook": "register_full_backward_pre_hook",
    "full backward hook": "register_full_backward_hook",
    "state_dict pre-hook": "register_state_dict_pre_hook",
    "state_dict hook": "register_state_dict_post_hook",
    "load_state_dict pre-hook": "register_load_state_dict_pre_hook",
    "load_state_dict post-hook": "register_load_state_dict_post_hook",
}
EVERYWHERE = {
    "forward pre-hook": "register_module_forward_pre_hook",
    "forward hook": "register_module_forward_hook",
    "backward pre-hook": "register_module_full_backward_pre_hook",
    "full backward hook": "register_module_full_backward_hook",
}
CAN_PREPEND = set(EVERYWHERE)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(REGISTER)), st.booleans(), st.booleans()), max_size=9)
)
def test_the_order_is_that_in_which_they_run(wanted: list[tuple[str, bool, bool]]) -> None:
    layer, calls, handles = nn.Linear(2, 2), [], []
    for number, (kind, first, everywhere) in enumerate(wanted):
        hook = named(str(number), calls)
        if everywhere and kind in EVERYWHERE:
            handles.append(getattr(nn.modules.module, EVERYWHERE[kind])(hook))
        else:
            options = {"prepend": True} if first and kind in CAN_PREPEND else {}
            getattr(layer, REGISTER[kind])(hook, **options)
    try:
        report = hook_report([("", layer)])
        layer(torch.ones(1, 2, requires_grad=True)).sum().backward()
        layer.load_state_dict(layer.state_dict())
    finally:
        for handle in handles:
            handle.remove()
    own = [hook for each in report.hooked for hook in each.hooks]
    listed = [
        hook.function.name
        for kind in REGISTER
        for hook in (*report.everywhere, *own)
        if hook.kind == kind
    ]
    assert listed == calls and len(calls) == len(wanted)
    assert [hook.kind for hook in own] == sorted((h.kind for h in own), key=list(REGISTER).index)


def test_how_they_are_called_and_what_is_around_them() -> None:
    class Recorder:
        def note(self, *args: object) -> None: ...

        def __call__(self, *args: object) -> None: ...

    layer = nn.Linear(2, 2)
    recorder = Recorder()
    layer.register_forward_hook(recorder.note, with_kwargs=True, always_call=True)
    layer.register_forward_hook(functools.partial(named("inner"), 1))
    layer.register_forward_hook(recorder)
    layer.register_forward_hook(torch.no_grad()(named("quiet")))
    layer.register_forward_pre_hook(layer.extra_repr)
    layer.register_load_state_dict_pre_hook(named("wrapped"))
    found = {hook.function.name.rpartition(".<locals>.")[2]: hook for hook in on(layer)[""]}
    assert found["Recorder.note"].notes == ("of a Recorder", "with_kwargs", "always_call")
    assert found["inner"].notes == ("in a partial",)
    assert found["Recorder"].function.line == Recorder.__call__.__code__.co_firstlineno
    assert found["quiet"].notes == ("decorated by context_decorator",)
    assert found["quiet"].function.file == __file__
    assert found["Linear.extra_repr"].notes == ("of this module",)
    assert found["wrapped"].kind == "load_state_dict pre-hook"


def test_tensors_parametrizations_and_a_replaced_forward() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight.register_hook(named("clamp"))
    model[0].weight.register_post_accumulate_grad_hook(named("step"))
    model[2].bias = model[0].bias
    parametrizations.orthogonal(model[1])
    model[2].forward = named("forward")
    found = on(model)
    assert [(hook.kind, hook.function.name) for hook in found["0.weight"]] == [
        ("gradient hook", "clamp"),
        ("post-accumulate-grad hook", "step"),
    ]
    (parametrized,) = found["1"]
    assert (parametrized.kind, parametrized.notes) == (
        "parametrization",
        ("computes weight at each read",),
    )
    assert [hook.kind for hook in found["2"]] == ["forward replaced"]
    assert list(found) == ["1", "2", "0.weight"]


@pytest.fixture
def everywhere() -> Iterator[None]:
    module = nn.modules.module
    handles = [
        module.register_module_forward_hook(named("all"), with_kwargs=True, always_call=True),
        module.register_module_buffer_registration_hook(named("buffers")),
    ]
    yield
    for handle in handles:
        handle.remove()


def test_hooks_for_all_modules(everywhere: None) -> None:
    report: HookReport = hook_report([("", nn.Linear(1, 1))])
    assert [(hook.kind, hook.notes) for hook in report.everywhere] == [
        ("forward hook", ("with_kwargs", "always_call")),
        ("buffer registration hook", ()),
    ]
    assert report.hooked == ()
    assert [hook.everywhere for hook in call_hooks(nn.Linear(1, 1))] == [True]


def test_the_old_backward_hook_is_told_apart() -> None:
    layer = nn.Linear(1, 1)
    layer.register_backward_hook(named("old"))
    assert [hook.kind for hook in on(layer)[""]] == ["backward hook"]


@pytest.mark.filterwarnings("ignore")
def test_odd_modules() -> None:
    def report(module: Any) -> HookReport:
        return hook_report([("", module)])

    assert report(nn.Module.__new__(nn.Linear)).hooked == ()
    assert report(torch.jit.script(nn.Linear(1, 1))).scripted == 1
    assert report(torch.compile(nn.Linear(1, 1))).modules == 2
    (lazy,) = report(nn.LazyLinear(1)).hooked
    assert [hook.kind for hook in lazy.hooks] == ["forward pre-hook", "load_state_dict pre-hook"]
