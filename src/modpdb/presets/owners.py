"""Whose function a frame runs: what stages and tensor places ask of the frames they see."""

from __future__ import annotations

import types

from modpdb.probes._static import class_attribute, instance_dict

_NOBODY = object()
_MISSING = object()

CodeKey = tuple[str, str, int]


def code_key(code: types.CodeType) -> CodeKey:
    """What a function's code and a patched copy of it have in common."""
    return code.co_filename, code.co_qualname, code.co_firstlineno


def first_argument(frame: types.FrameType) -> object:
    """``self`` of a method's frame; a marker where there is none."""
    code = frame.f_code
    if not code.co_argcount or code.co_varnames[0] not in ("self", "cls"):
        return _NOBODY
    return frame.f_locals.get(code.co_varnames[0], _NOBODY)


def has(owner: object, name: str) -> bool:
    """hasattr that runs none of the owner's code (inspect.getattr_static asks metaclasses)."""
    return (
        name in instance_dict(owner) or class_attribute(type(owner), name, _MISSING) is not _MISSING
    )


def inside_another(frame: types.FrameType, owner: object, keys: set[CodeKey]) -> bool:
    """Whether *frame* was called, directly or not, by one of *keys* on the same object: by an
    overriding method's super()."""
    names = {name for _, name, _ in keys}
    caller = frame.f_back
    while caller is not None:
        code = caller.f_code
        known = code.co_qualname in names and code_key(code) in keys
        if known and first_argument(caller) is owner:
            return True
        caller = caller.f_back
    return False
