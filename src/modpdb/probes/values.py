"""Any value in one line, without disturbing it.

Tensors and modules are described by shape, never by data. Objects of unknown classes are asked
for their repr with everything guarded: it may raise, print, or be no string.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import islice
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, Literal

from modpdb.probes._static import (
    class_attribute,
    class_name,
    instance_dict,
    is_a,
    mro,
    qualified_name,
)
from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.module_state import is_module
from modpdb.probes.modules import parameter_count
from modpdb.probes.tensors import TensorFacts, TensorReader, is_parameter, short_dtype

LIMIT = 200  # characters of a line

# The cell behind a method's super(), and what pdb (3.12 and later) puts among the globals.
_NOT_THE_USERS = {"__class__", "__pdb_convenience_variables"}
_ITEMS = 6  # of a container that are shown
_FIELDS = 12  # of a dataclass or namespace
_TEXT = 120  # characters or bytes of a string
_DEPTH = 3  # of containers within containers
_LONG = 1 << 14  # bits from which an int is not written out: Python refuses 4,300 digits

Kind = Literal["tensor", "module", "value", "code", "import", "dunder"]


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a frame; *line* does not repeat *type*."""

    name: str
    kind: Kind
    type: str
    line: str


def one_line(value: object, limit: int = LIMIT) -> str:
    """*value* in one line of at most *limit* characters, its type included where it matters."""
    plain = _PLAIN.get(id(type(value)))
    if plain is not None:  # no tensor to rule out: tracepoints show thousands of these
        return _cut(plain(value, 0), limit)
    return _cut(_guarded(lambda: _one_line(value, 0)), limit)


def frame_locals(variables: Mapping[str, Any], limit: int = LIMIT) -> list[Variable]:
    """A frame's variables in their order; code, imported modules and dunder names last."""
    described = [
        _variable(name, value, limit)
        for name, value in variables.items()
        if name not in _NOT_THE_USERS
    ]
    last = {"code": 1, "import": 2, "dunder": 3}
    return sorted(described, key=lambda variable: last.get(variable.kind, 0))


def _variable(name: str, value: object, limit: int) -> Variable:
    line = _cut(_guarded(lambda: _words(value, 0)), limit)
    return Variable(name, _kind(name, value), class_name(type(value)), line)


def _kind(name: str, value: object) -> Kind:
    if name.startswith("__") and name.endswith("__"):
        return "dunder"
    if is_a(value, ModuleType):
        return "import"
    if any(is_a(value, cls) for cls in (type, FunctionType, BuiltinFunctionType)):
        return "code"
    if is_module(value):
        return "module"
    return "value" if _tensor_words(value) is None else "tensor"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _one_line(value: object, depth: int) -> str:
    """The type and the words for it, or the words alone where they tell the type."""
    words = _words(value, depth)
    if _tensor_words(value) is None and not is_module(value):
        describer = _describer(value)
        if id(type(value)) in _SELF_EVIDENT or describer in (_class, _python_module, _enum):
            return words
        if describer is _foreign and not _is_plain_object(value):
            return words
    return f"{class_name(type(value))} {words}"


def _words(value: object, depth: int) -> str:
    tensor = _tensor_words(value)
    if tensor is not None:
        return tensor
    if is_module(value):
        return "module" if depth else _module_words(value)
    return _describer(value)(value, depth)


def _tensor_words(value: object) -> str | None:
    """Shape, dtype and what is unusual of a torch, lazy or numpy tensor; None of anything else."""
    torch = torch_or_none()
    if torch is not None:
        reader = TensorReader(torch)
        if reader.is_tensor(value):
            with undisturbed(torch):
                return _torch_words(torch, reader.facts(value), value)
    state = instance_dict(value)
    if "_meta" in state and "_func" in state:  # gguf's LazyTorchTensor, LazyNumpyTensor
        words = _tensor_words(state["_meta"])
        return words and f"{words.removesuffix(' meta')} {_laziness(state)}"
    if "_chunks" in state:  # gguf's LazyChunkedTensor
        return f"{_shape(state.get('shape'))} {_numpy_dtype(state.get('dtype'))} lazy"
    if "_lora_A" in state and "_lora_B" in state:  # convert_lora_to_gguf.py's LoraTorchTensor
        halves = (_tensor_words(state[f"_lora_{half}"]) for half in "AB")
        return " · ".join(f"{half} {words}" for half, words in zip("AB", halves, strict=True))
    numpy = sys.modules.get("numpy")
    if numpy is not None and is_a(value, getattr(numpy, "ndarray", type(None))):
        array = numpy.ndarray
        shape, dtype = array.shape.__get__(value), array.dtype.__get__(value)
        return f"{_shape(shape)} {_numpy_dtype(dtype)}"
    return None


def _torch_words(torch: Any, facts: TensorFacts, tensor: Any) -> str:
    words = [facts.unsized if facts.shape is None else _shape(facts.shape)]
    if facts.local_shape is not None:
        words.append(f"(here {_shape(facts.local_shape)})")
    words.append(facts.dtype)
    if facts.device != "cpu":
        words.append(facts.device)
    if torch._C.TensorBase.layout.__get__(tensor) is not torch.strided:
        words.append(str(torch._C.TensorBase.layout.__get__(tensor)).removeprefix("torch."))
    if facts.requires_grad is not is_parameter(tensor, torch.nn.Parameter):
        words.append("requires_grad" if facts.requires_grad else "frozen")
    return " ".join(words) + _single_value(torch, tensor)


def _single_value(torch: Any, tensor: Any) -> str:
    """The number itself of a tensor of one element that lies in memory, as in ` = 0.5`."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.device.type != "cpu":
        return ""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.numel() != 1:
        return ""
    try:
        return f" = {tensor.detach().item()!r}"
    except (RuntimeError, NotImplementedError):  # a dtype without items, as float4
        return ""


def _laziness(state: Mapping[str, Any]) -> str:
    return "lazy" if state.get("_data") is None else "lazy, materialised"


def _numpy_dtype(dtype: object) -> str:
    return short_dtype(_guarded(lambda: str(dtype)))


def _shape(shape: object) -> str:
    return str(list(shape)) if is_a(shape, tuple) else "[?]"  # type: ignore[call-overload]


def _module_words(module: object) -> str:
    count = parameter_count(module)
    return f"{count:,} parameter{'' if count == 1 else 's'}"


def _describer(value: object) -> Callable[[Any, int], str]:
    """The describer of the nearest class that has one; the foreign repr for all others."""
    if is_a(value, Enum):  # an IntEnum is an int as well
        return _enum
    for base in mro(type(value)):
        if id(base) in _DESCRIBERS:
            return _DESCRIBERS[id(base)]
    return _foreign


def _number(value: int, depth: int) -> str:
    bits = int.bit_length(value)
    return int.__repr__(value) if bits < _LONG else f"int of {bits:,} bits"


def _boolean(value: bool, depth: int) -> str:
    return bool.__repr__(value)


def _string(value: str, depth: int) -> str:
    length = str.__len__(value)
    if length <= _TEXT:
        return str.__repr__(value)
    return f"{str.__getitem__(value, slice(_TEXT))!r}… {length:,} characters"


def _bytes(value: bytes | bytearray, depth: int) -> str:
    kind: Any = bytes if is_a(value, bytes) else bytearray
    length = kind.__len__(value)
    if length <= _TEXT:
        return kind.__repr__(value)
    return f"{bytes(kind.__getitem__(value, slice(_TEXT)))!r}… {length:,} bytes"


def _path(value: PurePath, depth: int) -> str:
    return repr(str(value))


def _list(value: list[Any], depth: int) -> str:
    return _sequence("[", list.__iter__(value), list.__len__(value), "]", depth)


def _tuple(value: tuple[Any, ...], depth: int) -> str:
    names = class_attribute(type(value), "_fields")
    length = tuple.__len__(value)
    if type(names) is tuple and len(names) == length:
        return _fields(dict(zip(names, tuple.__iter__(value), strict=True)), depth)
    return _sequence("(", tuple.__iter__(value), length, ",)" if length == 1 else ")", depth)


def _set(value: set[Any], depth: int) -> str:
    return _sequence("{", set.__iter__(value), set.__len__(value), "}", depth)


def _frozenset(value: frozenset[Any], depth: int) -> str:
    return _sequence("{", frozenset.__iter__(value), frozenset.__len__(value), "}", depth)


def _other_sequence(value: Iterable[Any], depth: int) -> str:
    """A deque, or a view of a dict."""
    kind: Any = deque if is_a(value, deque) else type(value)
    items = list(islice(kind.__iter__(value), _ITEMS))
    return _sequence("[", iter(items), kind.__len__(value), "]", depth)


def _sequence(start: str, items: Iterator[Any], length: int, end: str, depth: int) -> str:
    if depth >= _DEPTH and length:
        return f"{start}… {length:,}{end}"
    shown = [_one_line(item, depth + 1) for item in islice(items, _ITEMS)]
    return start + ", ".join(shown + _more(length)) + end


def _dict(value: dict[Any, Any], depth: int) -> str:
    length = dict.__len__(value)
    if depth >= _DEPTH and length:
        return f"{{… {length:,}}}"
    shown = [
        f"{_one_line(key, depth + 1)}: {_one_line(item, depth + 1)}"
        for key, item in islice(dict.items(value), _ITEMS)
    ]
    return "{" + ", ".join(shown + _more(length)) + "}"


def _more(length: int) -> list[str]:
    return [f"… {length - _ITEMS:,} more"] if length > _ITEMS else []


def _fields(fields: Mapping[str, Any], depth: int) -> str:
    if depth >= _DEPTH:
        return "(…)"
    shown = [
        f"{name}={_one_line(item, depth + 1)}" for name, item in islice(fields.items(), _FIELDS)
    ]
    if len(fields) > len(shown):
        shown.append(f"… {len(fields) - len(shown):,} more")
    return "(" + ", ".join(shown) + ")"


def _namespace(value: object, depth: int) -> str:
    return _fields(instance_dict(value), depth)


def _enum(value: object, depth: int) -> str:
    return f"{class_name(type(value))}.{instance_dict(value).get('_name_')}"


def _class(value: type, depth: int) -> str:
    return f"class {qualified_name(value)}"


def _python_module(value: object, depth: int) -> str:
    return f"module {instance_dict(value).get('__name__')}"


def _function(value: FunctionType, depth: int) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _builtin(value: BuiltinFunctionType, depth: int) -> str:
    return value.__qualname__


def _method(value: MethodType, depth: int) -> str:
    function = value.__func__
    name = function.__qualname__ if type(function) is FunctionType else class_name(type(function))
    return f"{name} of a {class_name(type(value.__self__))}"


def _is_plain_object(value: object) -> bool:
    return class_attribute(type(value), "__repr__") is object.__repr__


def _partial(value: partial[Any], depth: int) -> str:
    function, arguments = value.func, value.args
    given = [_one_line(argument, depth + 1) for argument in arguments[:_ITEMS]]
    return f"of {_one_line(function, depth + 1)}({', '.join(given)})"


def _foreign(value: object, depth: int) -> str:
    """What is of no known class: a dataclass's fields, how much a plain object holds, its repr."""
    fields = class_attribute(type(value), "__dataclass_fields__")
    if type(fields) is dict:
        return class_name(type(value)) + _fields(dict(_dataclass_values(value, fields)), depth)
    if _is_plain_object(value):
        held = len(instance_dict(value))
        return f"object with {held:,} attributes" if held else "object"
    return " ".join(_guarded(lambda: repr(value)).split())


def _dataclass_values(value: object, fields: Iterable[str]) -> Iterator[tuple[str, Any]]:
    state = instance_dict(value)
    for field in fields:
        slot = class_attribute(type(value), field)
        if field in state:
            yield field, state[field]
        elif type(slot) is MemberDescriptorType:
            yield field, slot.__get__(value)


def _guarded(text_of: Callable[[], str]) -> str:
    """What *text_of* returns, with whatever it prints swallowed and whatever it raises named."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            text = text_of()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a repr may raise SystemExit too
        return f"(cannot be shown: {class_name(type(error))})"
    return str.__str__(text)  # a plain str even where repr returned a subclass of it


_BY_CLASS: dict[type, Callable[[Any, int], str]] = {
    bool: _boolean,
    int: _number,
    str: _string,
    bytes: _bytes,
    bytearray: _bytes,
    PurePath: _path,
    list: _list,
    tuple: _tuple,
    set: _set,
    frozenset: _frozenset,
    dict: _dict,
    type: _class,
    ModuleType: _python_module,
    FunctionType: _function,
    BuiltinFunctionType: _builtin,
    MethodType: _method,
    SimpleNamespace: _namespace,
    argparse.Namespace: _namespace,
    partial: _partial,
    deque: _other_sequence,
    type({}.keys()): _other_sequence,
    type({}.values()): _other_sequence,
    type({}.items()): _other_sequence,
}
# By id: looking a class up by itself would ask its metaclass for __hash__ and __eq__.
_DESCRIBERS = {id(cls): describer for cls, describer in _BY_CLASS.items()}
_PLAIN: dict[int, Callable[[Any, int], str]] = {
    id(int): _number,
    id(bool): _boolean,
    id(str): _string,
}
_SELF_EVIDENT = set(
    map(id, (int, bool, str, bytes, list, tuple, set, dict, type(None), float, complex))
)
