"""What stands behind a function whose source Python cannot show."""

from __future__ import annotations

import functools
import inspect
import re
import types
from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import class_attribute, instance_dict, is_a, namespace, qualname
from modpdb.probes._torch import torch_or_none

# Dispatch keys by device type, where upper case does not make the one of the other.
_KEYS = {"meta": "Meta", "privateuseone": "PrivateUse1", "lazy": "Lazy", "vulkan": "Vulkan"}
_DECORATORS = 16  # followed through: __wrapped__ may lead round in a circle
_ROW = re.compile(r"^(?P<key>\w+): (?:\w+ )?registered at (?P<place>\S+) \[(?P<kind>[^\]]+)\]$")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a function is defined; file is "" and line 0 for what was not written in Python."""

    name: str
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Builtin:
    """A function as Python sees it, and the builtin that it is expected to be.

    is_target: the outcome of `function is target`, tried on the live objects.
    source_error: what inspect.getsource() raised; "" where there is Python source.
    """

    name: str
    target: str
    is_target: bool
    type_name: str
    library: str
    doc: tuple[str, ...]
    source_error: str
    source: Source


@dataclass(frozen=True, slots=True)
class CppSource:
    """Where the C++ behind an operator is: a path in pytorch's repository, and the commit."""

    function: str
    path: str
    commit: str
    url: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """A row of the dispatcher's table: what runs for one dispatch key.

    kind is the dispatcher's own word: "math kernel" for a composite one, "kernel",
    "autograd kernel", "backend fallback".
    """

    key: str
    kind: str
    place: str


def source_of(function: Any) -> Source:
    """Name, file and line of a function, method, partial or callable object; nothing is called."""
    while True:
        if is_a(function, functools.partial):
            function = functools.partial.func.__get__(function)
        elif is_a(function, types.MethodType):
            function = function.__func__
        else:
            break
    if is_a(function, types.FunctionType):
        code = function.__code__
        return Source(function.__qualname__, code.co_filename, code.co_firstlineno)
    if is_a(function, types.BuiltinFunctionType):
        return Source(function.__qualname__)
    called = class_attribute(type(function), "__call__")
    name = qualname(type(function))
    if isinstance(called, types.FunctionType):
        return Source(name, called.__code__.co_filename, called.__code__.co_firstlineno)
    return Source(name)


def undecorated(function: Any) -> Any:
    """The function that decorators made by functools.wraps stand around, else *function*."""
    return peeled(function)[0]


def peeled(function: Any) -> tuple[Any, tuple[types.CodeType, ...]]:
    """The function that functools.wraps says is inside, and the code of what is wrapped around.

    A method or partial is left as it is; only plain functions are looked into.
    """
    around: list[types.CodeType] = []
    while is_a(function, types.FunctionType) and len(around) < _DECORATORS:
        inner = instance_dict(function).get("__wrapped__")
        if inner is None:
            break
        around.append(function.__code__)
        function = inner
    return function, tuple(around)


def linear_builtin() -> Builtin:
    """torch.nn.functional.linear as it is bound at this moment."""
    torch = torch_or_none()
    function = torch.nn.functional.linear
    error = ""
    try:
        inspect.getsource(function)
    except (TypeError, OSError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    return Builtin(
        name="torch.nn.functional.linear",
        target="torch._C._nn.linear",
        is_target=function is torch._C._nn.linear,
        type_name=type(function).__name__,
        library=str(torch._C.__file__),
        doc=_first_lines(getattr(function, "__doc__", None)),
        source_error=error,
        source=source_of(function),
    )


@dataclass(frozen=True, slots=True)
class Binding:
    """A builtin through which Python reaches an operator: "torch.conv2d", "Tensor.view".

    parser: the C++ function that parses Python's arguments and calls the operator, and its file,
    by the naming of torch's code generator. signature: as the builtin's docstring has it, or "".
    """

    name: str
    parser: str
    signature: str


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of the dispatcher.

    schemas: its overloads as declared, "out" variants left out. overload: the one whose kernels
    are listed, the first.
    """

    name: str
    schemas: tuple[str, ...]
    overload: str
    bindings: tuple[Binding, ...]
    kernels: tuple[Kernel, ...]


def is_operator(name: str) -> bool:
    """Whether the dispatcher has an operator of that name, say "aten::rsqrt"."""
    return bool(_schemas(name))


def operator(name: str, device_type: str, autocast: bool = False) -> Operator:
    """What is known of an operator ("aten::layer_norm") without running it."""
    schemas = _schemas(name)
    overload = schemas[0].overload_name if schemas else ""
    return Operator(
        name,
        tuple(str(each) for each in schemas if "out" not in each.overload_name.split("_")),
        overload,
        _bindings(name.removeprefix("aten::")),
        kernels(f"{name}.{overload}" if overload else name, device_type, autocast),
    )


def _bindings(name: str) -> tuple[Binding, ...]:
    torch = torch_or_none()
    places = (
        ("torch", namespace(torch._C._VariableFunctionsClass), "python_torch_functions"),
        ("torch._C._nn", instance_dict(torch._C._nn), "python_nn_functions"),
        ("torch.Tensor", namespace(torch._C.TensorBase), "python_variable_methods"),
    )
    found = []
    for owner, members, file in places:
        if name in members:
            doc = str(getattr(members[name], "__doc__", None) or "").strip()
            written = re.match(rf"{re.escape(name)}\([^)]*\)(?: -> [\w, ().]+)?", doc)
            signature = re.sub(r"\s+", " ", written[0]).strip() if written else ""
            found.append(Binding(f"{owner}.{name}", f"THPVariable_{name} in {file}", signature))
    return tuple(found)


def _schemas(name: str) -> list[Any]:
    torch = torch_or_none()
    try:
        return list(torch._C._jit_get_schemas_for_operator(name))
    except (AttributeError, RuntimeError):  # a private function
        return []


def _first_lines(doc: object, limit: int = 3) -> tuple[str, ...]:
    """The signature of a docstring and its first sentence, without Sphinx's markup."""
    if not isinstance(doc, str):
        return ()
    plain = re.sub(r":\w+:`([^`<]+?)(?:\s*<[^>]*>)?`", r"\1", doc)
    lines = (line.strip() for line in plain.splitlines())
    return tuple(line for line in lines if line)[:limit]


def linear_cpp() -> CppSource:
    """The C++ of aten::linear, at the commit from which this torch was built.

    commit and url are "" where the build does not tell its commit.
    """
    path = "aten/src/ATen/native/Linear.cpp"
    commit = str(getattr(torch_or_none().version, "git_version", None) or "")
    known = re.fullmatch(r"[0-9a-f]{7,40}", commit) is not None
    url = f"https://github.com/pytorch/pytorch/blob/{commit}/{path}" if known else ""
    return CppSource("at::native::linear", path, commit if known else "", url)


def kernels(operator: str, device_type: str, autocast: bool = False) -> tuple[Kernel, ...]:
    """What the dispatcher holds for *operator* ("aten::linear") on this type of device.

    Rows in the order in which the dispatcher goes by: autocast (if it is on), autograd, the
    device itself. () where the dispatcher's table cannot be read.
    """
    torch = torch_or_none()
    try:
        table = torch._C._dispatch_dump_table(operator)
    except (AttributeError, RuntimeError):  # a private function, and it knows no such operator
        return ()
    rows = {found["key"]: found for line in table.splitlines() if (found := _ROW.match(line))}
    device = _KEYS.get(device_type, device_type.upper())
    keys = [f"Autocast{device}"] * autocast + [f"Autograd{device}", device]
    return tuple(
        Kernel(key, rows[key]["kind"], _in_repository(rows[key]["place"]))
        for key in keys
        if key in rows
    )


def _in_repository(place: str) -> str:
    """The path in pytorch's repository, without that of the machine which built torch."""
    found = re.search(r"(?:build/)?(?:aten/src|torch/csrc|c10|functorch)/.*", place)
    return found[0] if found else place
