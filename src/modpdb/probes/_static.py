"""Look at an object without running any of its code.

A property, `__getattr__`, `__class__` or a metaclass of the debugged program may compute, print
or raise, so classes and instance dictionaries are read through `type`'s own descriptors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

_MRO = type.__dict__["__mro__"]
_NAMESPACE = type.__dict__["__dict__"]
_NAME = type.__dict__["__name__"]
_QUALNAME = type.__dict__["__qualname__"]


def mro(cls: type) -> tuple[type, ...]:
    return _MRO.__get__(cls)


def namespace(cls: type) -> Mapping[str, Any]:
    """What the class itself defines, as `cls.__dict__` shows it."""
    return _NAMESPACE.__get__(cls)


def class_name(cls: type) -> str:
    return _NAME.__get__(cls)


def qualname(cls: type) -> str:
    return _QUALNAME.__get__(cls)


def qualified_name(cls: type) -> str:
    """`module.qualname`; the bare qualname of a builtin."""
    module = namespace(cls).get("__module__")
    name = qualname(cls)
    return f"{module}.{name}" if isinstance(module, str) and module != "builtins" else name


def class_attribute(cls: type, name: str, default: Any = None) -> Any:
    """What *cls* or its nearest base defines under *name*, with no descriptor run."""
    for base in mro(cls):
        found = namespace(base)
        if name in found:
            return found[name]
    return default


def dict_reader(cls: type) -> Callable[[object], dict[str, Any]]:
    """What reads the own `__dict__` of an instance of *cls*, passing by a property of that name."""
    for base in mro(cls):
        descriptor: Any = namespace(base).get("__dict__")
        if type(descriptor) in (GetSetDescriptorType, MemberDescriptorType):
            return descriptor.__get__
    return lambda _: {}


def instance_dict(obj: object) -> dict[str, Any]:
    """The instance's own `__dict__`, {} for one that has none."""
    return dict_reader(type(obj))(obj)


def derives(cls: type, base: type) -> bool:
    """issubclass that asks no metaclass, as `base in mro(cls)` would for its `__eq__`."""
    return type.__subclasscheck__(base, cls)


def is_a(obj: object, cls: type) -> bool:
    """isinstance by the real type: never asks the object for its `__class__`."""
    return derives(type(obj), cls)
