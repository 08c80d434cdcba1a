"""llama.cpp's lazy tensors (gguf/lazy.py): what they will be, how they are made, and their values.

They are known by what they have: `_meta`, `_func`, `_args`. Nothing is materialised in place:
the graph is walked with results of our own, which are dropped as soon as nothing needs them, and
data that stands in it is copied first, since operations such as `+=` write to what they are given.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import (
    BuiltinFunctionType,
    FunctionType,
    MappingProxyType,
    MethodDescriptorType,
    MethodType,
    WrapperDescriptorType,
)
from typing import Any, NamedTuple

from modpdb.probes._static import class_attribute, class_name, instance_dict, is_a
from modpdb.probes._torch import torch_or_none
from modpdb.probes.tensors import TensorReader, short_dtype

_OPERATORS = {
    "add": "+", "iadd": "+", "radd": "+", "sub": "-", "isub": "-", "mul": "*", "imul": "*",
    "rmul": "*", "truediv": "/", "itruediv": "/", "floordiv": "//", "mod": "%", "pow": "**",
    "matmul": "@", "and": "&", "or": "|", "xor": "^", "lt": "<", "le": "<=", "gt": ">",
    "ge": ">=", "eq": "==", "ne": "!=", "lshift": "<<", "rshift": ">>",
}  # fmt: skip
_TUPLE_ELEMENT = "[…]"  # after the name of an operation that gives several
# Most of what operations are given; by id, for a class's metaclass may compare as it likes.
_PLAIN = frozenset(map(id, (int, str, float, bool, slice, type(None))))
NOTHING: Mapping[Any, Any] = MappingProxyType({})
_REVERSED = {"rsub": "-", "rtruediv": "/", "rpow": "**", "rfloordiv": "//"}


class Leaf(NamedTuple):
    """Where data comes from: *file* and tensor *name*, each "" where it is not known."""

    file: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    materialised: bool = False  # it is in memory


class Made(NamedTuple):
    """The result of an operation on *inputs*, as in `reshape(3, 4)` or `+ 1`."""

    operation: str
    inputs: tuple[Leaf | Made, ...]
    shape: tuple[int, ...]
    dtype: str


class Cost(NamedTuple):
    """Bytes that an evaluation reads, and the most that it holds at a time (views counted too)."""

    read: int
    held: int


def is_lazy(value: object) -> bool:
    """Whether *value* is one of gguf's lazy tensors, LazyTorchTensor or LazyNumpyTensor."""
    cls = type(value)
    if id(cls) in _PLAIN or class_attribute(cls, "_wrap_fn") is None:
        return False
    state = instance_dict(value)
    return {"_meta", "_data", "_args", "_kwargs", "_func"} <= state.keys() and is_eager(
        state["_meta"]
    )


def shape_and_dtype(tensor: Any) -> tuple[tuple[int, ...], str, int]:
    """Shape, dtype and bytes of what a lazy tensor will be, or of a torch or numpy one."""
    meta = instance_dict(tensor)["_meta"] if is_lazy(tensor) else tensor
    torch = torch_or_none()
    if torch is not None and TensorReader(torch).is_tensor(meta):
        facts = TensorReader(torch).facts(meta)
        return facts.shape or (), facts.dtype, facts.nbytes or 0
    shape, dtype = meta.shape, meta.dtype
    elements = 1
    for size in shape:
        elements *= size
    return tuple(shape), short_dtype(str(dtype)), elements * dtype.itemsize


def _shape_and_dtype(meta: Any) -> tuple[tuple[int, ...], str]:
    """The same of what a lazy tensor holds as `_meta`: quick for what is no subclass, of which a
    graph has many."""
    if any(type(meta) is kind for kind in _eager_kinds()):
        return tuple(meta.shape), _dtype_name(meta.dtype)
    shape, dtype, _ = shape_and_dtype(meta)
    return shape, dtype


@functools.lru_cache(64)
def _dtype_name(dtype: object) -> str:
    return short_dtype(str(dtype))


# -- history -------------------------------------------------------------------------------------


def history(
    lazy: Any, names: Mapping[int, str], known: Mapping[int, Leaf | Made] = NOTHING
) -> Leaf | Made:
    """How *lazy* is made. *names*: of checkpoint tensors, by the id of what stands for them in
    the graph (`LocalTensor`, a safetensors slice). *known*: how lazy tensors are made of which
    that was found out before, by their id; the graph is not followed beyond them."""
    done: dict[int, Leaf | Made] = {}
    stack: list[tuple[Any, Any, Any]] = [(lazy, None, None)]
    while stack:
        node, state, below = stack.pop()
        key = id(node)
        if key in done:
            continue
        if key in known:
            done[key] = known[key]
            continue
        if below is None:
            state = instance_dict(node)
            below = _lazies(state["_args"]) if state["_data"] is None else []
            if below:
                stack.append((node, state, below))
                stack += [(each, None, None) for each in reversed(below)]
                continue
        done[key] = _origin(state, names, tuple(done[id(each)] for each in below))
    return done[id(lazy)]


def _origin(
    state: Mapping[str, Any], names: Mapping[int, str], inputs: tuple[Leaf | Made, ...]
) -> Leaf | Made:
    shape, dtype = _shape_and_dtype(state["_meta"])
    if state["_data"] is not None:
        return Leaf("", names.get(id(state["_data"]), ""), shape, dtype, True)
    if inputs:
        return Made(_operation(state), inputs, shape, dtype)
    file, name = _source(state["_args"], names)
    return Leaf(file, name, shape, dtype)


def bound_names(model_tensors: Any) -> Iterator[tuple[Any, str]]:
    """What each callable in a converter's `model_tensors` has bound, and the tensor's name."""
    if type(model_tensors) is not dict:
        return
    for name, source in model_tensors.items():
        if type(name) is str and type(source) is FunctionType:
            yield from ((bound, name) for bound in source.__defaults__ or ())


def leaf_names(model_tensors: Any) -> dict[int, str]:
    """The names in a converter's `model_tensors`, by the id of what each callable has bound."""
    return {id(bound): name for bound, name in bound_names(model_tensors)}


def leaves(origin: Leaf | Made) -> Iterator[Leaf]:
    """Every source of *origin*, each once, in the order of their use."""
    stack, seen = [origin], set()
    while stack:
        each = stack.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Leaf):
            yield each
        else:
            stack.extend(reversed(each.inputs))


def _source(args: Any, names: Mapping[int, str]) -> tuple[str, str]:
    source = args[0] if is_a(args, tuple) and args else None
    path: Any = instance_dict(instance_dict(source).get("data_range")).get("filename")
    file = Path(path).name if type(path) is str or is_a(path, Path) else ""
    return file, names.get(id(source), "")


def _operation(state: Mapping[str, Any]) -> str:
    """The operation in a word, with those of its arguments that are no tensors."""
    given, kwargs = state["_args"], state["_kwargs"]
    name, element = _function_name(state["_func"]), ""
    if _TUPLE_ELEMENT in name:  # its arguments: [those of the operation, a cache], index
        name, element = name.removesuffix(_TUPLE_ELEMENT), f"[{given[1]}]"
        given = given[0][0]
    args = list(_flat(given))
    plain = [each for each in args if not is_lazy(each) and not is_eager(each)]
    words = [_argument(each) for each in plain]
    if type(kwargs) is dict:
        words += [f"{key}={_argument(value)}" for key, value in kwargs.items()]
    if name in _OPERATORS:
        return " ".join([_OPERATORS[name], *words])
    if name in _REVERSED:
        return " ".join([*words, _REVERSED[name]])
    if name == "getitem":
        return f"[{', '.join(words)}]"
    return (f"{name}({', '.join(words)})" if words else name) + element


def _function_name(function: Any) -> str:
    """`reshape` of gguf's lambda over `name`, `add` of `__add__`, `stack` of `torch.stack`."""
    if type(function) is FunctionType:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        if "name" in cells and type(cells["name"].cell_contents) is str:  # LazyMeta's
            return cells["name"].cell_contents
        if "fn" in cells and function.__name__ == "eager_tuple_element":
            return _function_name(cells["fn"].cell_contents) + _TUPLE_ELEMENT
        called = function.__code__.co_names
        if function.__name__ == "<lambda>" and called:
            return called[-1]
        return function.__name__
    if type(function) is MethodType:
        owner: Any = function.__self__
        name = function.__name__.strip("_").removesuffix("_array")
        return f"{name} {class_name(owner)}" if is_a(owner, type) else name
    if type(function) in (BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType):
        return function.__name__.strip("_")
    return class_name(type(function))


def _argument(value: Any) -> str:
    if type(value) is slice:
        ends = ["" if end is None else str(end) for end in (value.start, value.stop)]
        return ":".join(ends if value.step is None else [*ends, str(value.step)])
    if type(value) in (int, float, bool, str, type(None)):
        return str(value)
    if type(value) is type(...):
        return "…"
    if type(value) is type:  # a numpy scalar's, as astype takes it
        return short_dtype(class_name(value))
    if class_name(type(value)).lower().endswith("dtype"):
        return short_dtype(str(value))
    return class_name(type(value))


def is_eager(value: Any) -> bool:
    """Whether *value* is a tensor of torch or an array of numpy."""
    if id(type(value)) in _PLAIN:
        return False
    return any(is_a(value, kind) for kind in _eager_kinds())


def _eager_kinds() -> tuple[Any, ...]:
    return _kinds_of(torch_or_none(), sys.modules.get("numpy"))


@functools.lru_cache(4)
def _kinds_of(torch: Any, numpy: Any) -> tuple[Any, ...]:
    kinds = getattr(torch, "Tensor", None), getattr(numpy, "ndarray", None)
    return tuple(kind for kind in kinds if kind is not None)


def _flat(args: Any) -> Iterator[Any]:
    if is_a(args, list) or is_a(args, tuple):
        for each in args:
            if id(type(each)) in _PLAIN:
                yield each
            else:
                yield from _flat(each)
    else:
        yield args


# -- the graph -----------------------------------------------------------------------------------


def _lazies(args: Any) -> list[Any]:
    """The lazy tensors among arguments, in lists and tuples too."""
    return [each for each in _flat(args) if is_lazy(each)]


def _needed(node: Any) -> list[Any]:
    """What must be there for *node* to be computed; nothing where its data is."""
    state = instance_dict(node)
    return [] if state["_data"] is not None else _lazies(state["_args"])


def _in_order(lazy: Any) -> list[Any]:
    """The nodes of the graph, each after those that it needs. No recursion: graphs are deep."""
    order: list[Any] = []
    entered: set[int] = set()
    stack = [(lazy, False)]
    while stack:
        node, left = stack.pop()
        if left:
            order.append(node)
        elif id(node) not in entered:
            entered.add(id(node))
            stack.append((node, True))
            stack.extend((each, False) for each in reversed(_needed(node)))
    return order


def _uses(order: Iterable[Any]) -> dict[int, int]:
    found: dict[int, int] = {}
    for node in order:
        for each in _needed(node):
            found[id(each)] = found.get(id(each), 0) + 1
    return found


def cost(lazy: Any) -> Cost:
    """What `evaluate` will read and hold."""
    order = _in_order(lazy)
    uses = _uses(order)
    sizes: dict[int, int] = {}
    read = held = most = 0
    for node in order:
        _, _, size = shape_and_dtype(node)
        needed = _needed(node)
        read += size if not needed else 0
        sizes[id(node)] = size
        held += size
        most = max(most, held)
        for each in needed:
            uses[id(each)] -= 1
            held -= sizes[id(each)] if not uses[id(each)] else 0
    return Cost(read, most)


def evaluate(lazy: Any, watch: Callable[[int, int], None] | None = None) -> Any:
    """The torch tensor or numpy array that *lazy* stands for; the graph stays as it is.

    *watch* is told how many of the operations are done. Raises what the operations raise.
    """
    order = _in_order(lazy)
    uses = _uses(order)
    results: dict[int, Any] = {}
    for number, node in enumerate(order, 1):
        state = instance_dict(node)
        if state["_data"] is not None:
            results[id(node)] = _copied(state["_data"])
        else:
            args = _replaced(state["_args"], results)
            results[id(node)] = state["_func"](*args, **state["_kwargs"])
            del args
            for each in _lazies(state["_args"]):
                uses[id(each)] -= 1
                if not uses[id(each)]:
                    del results[id(each)]
        if watch is not None:
            watch(number, len(order))
    return results[id(lazy)]


def _replaced(args: Any, results: Mapping[int, Any]) -> Any:
    """*args* with results for lazy tensors and copies of those that are in memory."""
    if is_a(args, list) or is_a(args, tuple):
        made = [_replaced(each, results) for each in args]
        return tuple(made) if is_a(args, tuple) else made
    if is_lazy(args):
        return results[id(args)]
    return _copied(args) if is_eager(args) else args


def _copied(data: Any) -> Any:
    torch = torch_or_none()
    if torch is not None and is_a(data, torch.Tensor):
        return data.detach().clone()
    return data.copy()
