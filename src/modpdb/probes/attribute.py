"""Where an attribute lives, in the order in which Python looks for it, with nothing of it run.

The order is that of `object.__getattribute__` and `type.__getattribute__` (Objects/object.c and
Objects/typeobject.c of CPython), then of `nn.Module.__getattr__` (torch/nn/modules/module.py).
"""

from __future__ import annotations

import dis
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import (
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Literal

from modpdb.probes._static import (
    class_attribute,
    class_name,
    instance_dict,
    is_a,
    mro,
    namespace,
    qualified_name,
)
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.brief import briefly, is_tensor
from modpdb.probes.builtins import Source, source_of, undecorated
from modpdb.probes.linear_layer import originals
from modpdb.probes.module_state import entries, is_module
from modpdb.probes.tensors import is_parameter

State = Literal["found", "not there", "hidden", "not known", "perhaps"]

REGISTRIES = ("_parameters", "_buffers", "_modules")  # in the order of Module.__getattr__
_COMPILED = "torch._dynamo.eval_frame.OptimizedModule"
_DELEGATING = (super, weakref.ProxyType, weakref.CallableProxyType)  # of C's types
_FGET: Any = property.__dict__["fget"].__get__
_NAMES = 2_000  # among which a name that is not there may have been meant


@dataclass(frozen=True, slots=True)
class Place:
    """One place in which Python looks.

    *state*: "hidden" places hold the name and are never asked; after one of which the answer is
    "not known", as after a class's own `__getattr__`, a place that holds it is asked "perhaps".
    """

    where: str
    state: State
    what: str = ""
    source: Source | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attribute:
    """*places* in the order in which they are asked; *near*: names that are there, for one that
    is not."""

    name: str
    owner: str  # what kind of object: "a Linear", "class torch.nn.Linear"
    places: tuple[Place, ...]
    near: tuple[str, ...] = ()

    @property
    def found(self) -> Place | None:
        return next((place for place in self.places if place.state == "found"), None)

    @property
    def undecided(self) -> Place | None:
        """Code of the object's own that decides, and was not run."""
        return next((place for place in self.places if place.state == "not known"), None)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A place before it is known what the others hold; *holds* is None where only running tells."""

    where: str
    holds: bool | None
    what: str = ""
    source: Source | None = None
    notes: list[str] = field(default_factory=list)


def attribute(obj: Any, name: str) -> Attribute:
    """Every place that Python asks for *name* of *obj*, and those that it never comes to.

    Runs no property, no `__getattr__`, no descriptor but those of slots.
    """
    torch = torch_or_none()
    if torch is None:
        places = _settled(_candidates(obj, name))
    else:
        with undisturbed(torch):
            places = _settled(_candidates(obj, name))
    found = Attribute(name, _kind(obj), places)
    if found.found or found.undecided:
        return found
    return replace(found, near=_near(obj, name))


def _kind(obj: Any) -> str:
    return briefly(obj) if is_a(obj, type) or is_a(obj, ModuleType) else class_name(type(obj))


def _settled(candidates: Iterator[_Candidate]) -> tuple[Place, ...]:
    places: list[Place] = []
    state: State
    asked = certain = True
    for each in candidates:
        if each.holds is None:
            state = "not known"
        elif each.holds:
            state = ("found" if certain else "perhaps") if asked else "hidden"
            asked = False
        else:
            state = "not there"
        if asked or state in ("found", "perhaps", "hidden"):
            places.append(Place(each.where, state, each.what, each.source, tuple(each.notes)))
        certain = certain and each.holds is not None
    return tuple(places)


def _candidates(obj: Any, name: str) -> Iterator[_Candidate]:
    owner, getter = defining(type(obj), "__getattribute__")
    if not is_standard(owner, getter):
        yield _own_code(type(obj), "__getattribute__")
    is_class = is_a(obj, type)
    kind = "metaclass" if is_class else "class"
    base, held = defining(type(obj), name)
    if base is None:
        yield _Candidate(f"data descriptor of the {kind}", False, _searched(type(obj)))
    elif is_data_descriptor(held):
        yield _descriptor(obj, name, base, held, f"data descriptor of the {kind}")
    else:
        yield _Candidate(f"data descriptor of the {kind}", False)
    yield from _own(obj, name)
    if base is None:
        yield _Candidate(f"any attribute of the {kind}", False)
    elif not is_data_descriptor(held):
        yield _plain_class_attribute(base, name, held, f"any attribute of the {kind}")
    yield from _fallback(obj, name)


def _own(obj: Any, name: str) -> Iterator[_Candidate]:
    """The object's own dict; a class's, and those of its bases."""
    if is_a(obj, type):
        base, held = defining(obj, name)
        if base is None:
            yield _Candidate("the class and its bases", False, _searched(obj))
        else:
            yield _plain_class_attribute(base, name, held, "the class and its bases")
        return
    held = instance_dict(obj)
    if name in held:
        notes = _notes_on(held[name])
        yield _Candidate("instance __dict__", True, briefly(held[name]), _source(held[name]), notes)
    else:
        yield _Candidate("instance __dict__", False)


def _fallback(obj: Any, name: str) -> Iterator[_Candidate]:
    """`__getattr__`, which is only asked where all else has failed."""
    getter = class_attribute(type(obj), "__getattr__")
    if getter is None:
        if is_a(obj, ModuleType) and "__getattr__" in instance_dict(obj):  # PEP 562
            source = _source(instance_dict(obj)["__getattr__"])
            yield _Candidate("__getattr__ of the module", None, "not run", source)
        return
    torch = torch_or_none()
    if torch is None or getter is not torch.nn.Module.__getattr__:
        if qualified_name(type(obj)) == _COMPILED:
            yield from _compiled(obj, name)
            return
        yield _own_code(type(obj), "__getattr__")
    if not is_module(obj):
        return
    for registry in REGISTRIES:
        held = dict(entries(instance_dict(obj), registry))
        where = f"Module.__getattr__: {registry}"
        if registry not in instance_dict(obj):
            yield _Candidate(where, False, "super().__init__() has not run")
        elif name in held:
            notes = _notes_on_registered(torch, registry, held[name])
            yield _Candidate(where, True, briefly(held[name]), None, notes)
        else:
            yield _Candidate(where, False)


def _compiled(obj: Any, name: str) -> Iterator[_Candidate]:
    """torch.compile's OptimizedModule passes all that it has not itself on to `_orig_mod`."""
    inner = dict(entries(instance_dict(obj), "_modules")).get("_orig_mod")
    if name == "_orig_mod":
        yield _Candidate("OptimizedModule.__getattr__: _modules", True, briefly(inner))
        return
    yield _Candidate("OptimizedModule.__getattr__", False, "passes on to _orig_mod")
    for each in _candidates(inner, name):
        yield replace(each, where=f"_orig_mod, {each.where}")


def _own_code(cls: type, method: str) -> _Candidate:
    base, function = defining(cls, method)
    where = f"{class_name(cls if base is None else base)}.{method}"
    return _Candidate(where, None, "its own code, not run", _source(function))


# -- what a class defines ------------------------------------------------------------------------


def defining(cls: type, name: str) -> tuple[type | None, Any]:
    """The class in *cls*'s MRO that defines *name*, and what it defines; (None, None) if none."""
    for base in mro(cls):
        found = namespace(base)
        if name in found:
            return base, found[name]
    return None, None


def is_standard(base: type | None, method: Any) -> bool:
    """Whether a `__getattribute__` or `__setattr__` that *base* defines is Python's usual one.

    Types written in C have a slot of their own for the same function.
    """
    return type(method) is WrapperDescriptorType and not any(base is each for each in _DELEGATING)


def is_data_descriptor(held: Any) -> bool:
    """Whether reading it comes before the instance's dict: it has `__get__`, and `__set__` or
    `__delete__`."""
    cls = type(held)
    reads, writes, deletes = (
        class_attribute(cls, method) is not None for method in ("__get__", "__set__", "__delete__")
    )
    return reads and (writes or deletes)


def _searched(cls: type) -> str:
    """The classes that were looked through, the nearest first."""
    names = [class_name(base) for base in mro(cls)]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _plain_class_attribute(base: type, name: str, held: Any, where: str) -> _Candidate:
    owner = class_name(base)
    notes = []
    if is_a(held, cached_property):
        notes.append("a cached_property: its first read runs it and fills the instance's __dict__")
    elif is_tensor(held) or is_module(held):
        notes.append("of the class: parameters(), state_dict() and .to() do not see it")
    return _Candidate(where, True, f"{briefly(held)}, in {owner}", _source(held), notes)


def _descriptor(obj: Any, name: str, base: type, held: Any, where: str) -> _Candidate:
    owner = class_name(base)
    if type(held) is MemberDescriptorType:
        try:
            return _Candidate(where, True, f"slot of {owner}: {briefly(held.__get__(obj))}")
        except AttributeError:
            return _Candidate(where, False, f"slot of {owner}, unset")
    if type(held) is GetSetDescriptorType:
        return _Candidate(where, True, f"of {owner}, read by C code, not run")
    if not is_a(held, property):
        source = _source(class_attribute(type(held), "__get__"))
        return _Candidate(where, True, f"{briefly(held)}, in {owner}, not run", source)
    getter: Any = _FGET(held)
    what = f"property of {owner}, not run"
    return _Candidate(where, True, what, _source(getter), _property_notes(obj, name, getter))


def _property_notes(obj: Any, name: str, getter: Any) -> list[str]:
    notes = []
    if is_module(obj) and "parametrizations" in dict(entries(instance_dict(obj), "_modules")):
        computed = originals(obj, name)
        notes.append(computed.removesuffix("; not run"))
    if class_attribute(type(obj), "__getattr__") is None:
        return notes
    ways = _settled(_fallback(obj, name))
    held = [place.where for place in ways if place.state in ("found", "not known")]
    then = f"comes to {held[0]}" if held else f"reports {name!r} as missing"
    missing = [each for each in _reads_of_self(getter) if not _may_have(obj, each)]
    if missing:
        names = ", ".join(missing)
        notes.append(
            f"guess: the getter reads self.{names}, which is not there; by that AttributeError "
            f"Python goes on to __getattr__ and {then}"
        )
    else:
        notes.append(f"should the getter raise AttributeError, Python {then}")
    return notes


def _reads_of_self(getter: Any) -> list[str]:
    """The attributes that a getter's bytecode reads of its first argument."""
    if not is_a(getter, FunctionType) or not getter.__code__.co_argcount:
        return []
    first = getter.__code__.co_varnames[0]
    names: dict[str, None] = {}
    loaded = None
    for each in dis.get_instructions(getter.__code__):
        if each.opname in ("LOAD_ATTR", "LOAD_METHOD") and loaded == first:
            names[each.argval] = None
        loaded = each.argval if each.opname.startswith("LOAD_FAST") else None
        if type(loaded) is tuple:  # 3.13's LOAD_FAST_LOAD_FAST
            loaded = loaded[-1]
    return list(names)


def _may_have(obj: Any, name: str) -> bool:
    places = _settled(_candidates_shallow(obj, name))
    return any(place.state in ("found", "not known") for place in places)


def _candidates_shallow(obj: Any, name: str) -> Iterator[_Candidate]:
    """As _candidates, a property counting as found: its getter is not looked into."""
    base, _ = defining(type(obj), name)
    yield _Candidate("class", base is not None)
    yield from _own(obj, name)
    yield from _fallback(obj, name)


# -- notes ---------------------------------------------------------------------------------------


def _source(held: Any) -> Source | None:
    return source_of(undecorated(held)) if is_a(held, FunctionType) else None


def _notes_on(value: Any) -> list[str]:
    if is_tensor(value) or is_module(value):
        return ["a plain attribute: parameters(), state_dict() and .to() do not see it"]
    return []


def _notes_on_registered(torch: Any, registry: str, value: Any) -> list[str]:
    if registry != "_parameters" or not is_tensor(value):
        return []
    if is_parameter(value, torch.nn.Parameter):
        return []
    return ["a plain tensor, no Parameter: torch.func.functional_call is under way"]


def _near(obj: Any, name: str) -> tuple[str, ...]:
    """Names of *obj* that come nearest to one that is not there."""
    import difflib

    names = dict.fromkeys(instance_dict(obj))
    for registry in REGISTRIES if is_module(obj) else ():
        names.update(dict.fromkeys(key for key, _ in entries(instance_dict(obj), registry)))
    for base in (*mro(type(obj)), *(mro(obj) if is_a(obj, type) else ())):
        names.update(dict.fromkeys(namespace(base)))
    pool = [each for each in names if type(each) is str and each != name][:_NAMES]
    return tuple(difflib.get_close_matches(name, pool, n=2, cutoff=0.6))
