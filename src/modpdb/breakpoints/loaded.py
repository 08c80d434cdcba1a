"""What is loaded: modules, classes and what they define, without running any of their code."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

# A metaclass may compute, print or raise: classes are read through `type`'s own descriptors.
_MRO = type.__dict__["__mro__"]
_NAMESPACE = type.__dict__["__dict__"]
_NAME = type.__dict__["__name__"]
_QUALNAME = type.__dict__["__qualname__"]
_MODULE_DICT = vars(types.ModuleType)["__dict__"]
_OURSELVES = __name__.partition(".")[0]


def module_files() -> Iterator[tuple[str, str]]:
    """Name and ``__file__`` of every module in sys.modules."""
    for name, module in list(sys.modules.items()):
        if issubclass(type(module), types.ModuleType):
            file = _MODULE_DICT.__get__(module).get("__file__")
            if isinstance(file, str):
                yield name, file


def loaded_classes(name: str | None = None) -> Iterator[type]:
    """Every class there is, or those of this ``__name__``; modpdb's own left out."""
    found: dict[int, type] = {id(object): object}
    waiting: list[type] = [object]
    while waiting:
        subclasses: list[type] = type.__subclasses__(waiting.pop())
        for cls in subclasses:
            if id(cls) not in found:
                found[id(cls)] = cls
                waiting.append(cls)
    for cls in found.values():
        if name in (None, class_name(cls)) and module_of(cls).partition(".")[0] != _OURSELVES:
            yield cls


def mro(cls: type) -> tuple[type, ...]:
    return _MRO.__get__(cls)


def namespace(cls: type) -> types.MappingProxyType[str, Any]:
    """What the class itself defines."""
    return _NAMESPACE.__get__(cls)


def class_name(cls: type) -> str:
    return _NAME.__get__(cls)


def qualname(cls: type) -> str:
    """``Outer.Inner``, with no ``<locals>`` in it."""
    return _QUALNAME.__get__(cls).replace("<locals>.", "")


def module_of(cls: type) -> str:
    module = namespace(cls).get("__module__")
    return module if isinstance(module, str) else "?"


def definer(cls: type, name: str) -> type | None:
    """The class, *cls* or a base of it, whose *name* is ``cls.name``."""
    return next((base for base in mro(cls) if name in namespace(base)), None)


def function_code(value: Any) -> types.CodeType | None:
    """The code that a call of *value* runs, None where that is not Python.

    Methods, classmethods, partials, decorated functions (through ``__wrapped__``) and classes
    (their ``__init__``) are looked through; no attribute of a foreign object is computed.
    """
    for _ in range(20):
        cls = type(value)  # isinstance would ask the object for its __class__
        if cls is types.FunctionType:
            value = inspect.getattr_static(value, "__wrapped__", value.__code__)
        elif cls is types.CodeType:
            return value
        elif issubclass(cls, types.MethodType | classmethod | staticmethod):
            value = value.__func__
        elif issubclass(cls, functools.partial):
            value = value.func
        elif issubclass(cls, type):
            value = _initializer(value)
        else:
            return None
    return None


def _initializer(cls: type) -> object:
    owner = definer(cls, "__init__")
    return None if owner is None else namespace(owner)["__init__"]


def method_code(cls: type, name: str) -> types.CodeType | None:
    """The code behind ``cls.name``, as *cls* or its nearest base defines it.

    Of a property its getter's; of a function that a decorator has wrapped its own, also where
    the wrapper does not tell (``__wrapped__``) but holds it in its closure.
    """
    owner = definer(cls, name)
    if owner is None:
        return None
    value = namespace(owner)[name]
    if type(value) is property:
        value = value.fget
    code = function_code(value)
    if code is not None and code.co_name != name and type(value) is types.FunctionType:
        return _enclosed(value, name) or code
    return code


def _enclosed(function: types.FunctionType, name: str) -> types.CodeType | None:
    for cell in function.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        if type(held) is types.FunctionType and held.__code__.co_name == name:
            return held.__code__
    return None


def is_static(cls: type, name: str) -> bool:
    """Whether ``cls.name`` is a staticmethod: it is called without the class."""
    owner = definer(cls, name)
    return owner is not None and type(namespace(owner)[name]) is staticmethod
