"""What runs in the forked copy: the converter's own functions, their failures noted.

Everything here may change classes and objects as it likes: it is the copy that is changed. Not
for the program's own process.
"""

from __future__ import annotations

import contextlib
import linecache
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from types import CodeType, FrameType
from typing import Any

from modpdb.probes._static import class_attribute, instance_dict, is_a
from modpdb.probes._torch import torch_or_none
from modpdb.probes.checkpoints import read_checkpoint
from modpdb.probes.conversion import Conversion
from modpdb.probes.dry_run import DryRun, Kind, Miss, source_names
from modpdb.probes.files import CheckpointError
from modpdb.probes.lazy import (
    graph_inputs,
    history,
    is_lazy,
    leaf_names,
    leaves,
    shape_and_dtype,
)
from modpdb.probes.provenance import WrittenTensor
from modpdb.probes.writer import writer_contents

_FAILURES = (Exception, SystemExit)
_RETRIES = 32  # missing keys of the config that are passed over
_LONGEST = 1_000  # characters of what an exception says
_DEEP = 10_000  # of Python's recursion: a graph is pickled node by node
# Events of sys.audit that change files or start processes; "open" is looked at by its flags.
_PROCESSES = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")
_CHANGES = (
    *_PROCESSES, "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link",
    "os.symlink", "os.chmod", "os.chown", "os.utime", "os.setxattr", "shutil.", "tempfile.",
)  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def rehearse(make: Callable[[], Any], conversion: Conversion, scratch: str) -> DryRun:
    """Run the converter that *make* gives, from its first tensor to the last key.

    What libraries put into temporary files and transformers into its cache of modules goes to the
    folder *scratch*; to change anything else fails.
    """
    sys.setrecursionlimit(max(sys.getrecursionlimit(), _DEEP))
    tempfile.tempdir = os.environ["TMPDIR"] = scratch
    if "transformers.dynamic_module_utils" in sys.modules:
        sys.modules["transformers.dynamic_module_utils"].HF_MODULES_CACHE = scratch  # type: ignore[attr-defined]
    sys.addaudithook(_Fence(scratch))
    torch = torch_or_none()
    with torch.inference_mode() if torch is not None else contextlib.nullcontext():
        return _Rehearsal(conversion).run(make)


class FenceError(PermissionError):
    """The copy was about to change something outside of it."""


class _Fence:
    """An audit hook that lets files be written in one folder only, and no process be started."""

    def __init__(self, scratch: str) -> None:
        self._scratch = os.path.join(os.path.realpath(scratch), "")

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if not args[2] & _WRITES or args[0] == os.devnull:
                return
        elif not event.startswith(_CHANGES):
            return
        path = args[0] if args else ""
        if type(path) is int or (not event.startswith(_PROCESSES) and self._is_inside(path)):
            return
        raise FenceError(f"a dry run changes nothing, and this would: {event} {path!s:.200}")

    def _is_inside(self, path: Any) -> bool:
        if not is_a(path, str) and not is_a(path, PurePath):
            return False
        return os.path.realpath(path).startswith(self._scratch)


class _Rehearsal:
    def __init__(self, conversion: Conversion) -> None:
        self._conversion = conversion
        self._model: Any = None
        self._misses: list[Miss] = []
        self._logged: list[str] = []  # errors that the script logs before it exits
        self._root = str(Path(getattr(sys.modules["__main__"], "__file__", None) or ".").parent)
        self._written: dict[str, WrittenTensor] = {}
        self._assumed: tuple[str, ...] = ()
        # Of the loop over the tensors: where they come from, and how far it is.
        self._source: Iterator[Any] = iter(())
        self._at = ""
        self._taken = 0
        self._without_result: list[str] = []
        self._inside = False  # modify_tensors
        # Checkpoint names by what stands for them in the graph, which is kept: no id is reused.
        self._names: dict[int, str] = {}
        self._kept: list[Any] = []

    def run(self, make: Callable[[], Any]) -> DryRun:
        logging.Logger.callHandlers = self._log  # type: ignore[method-assign,assignment]
        with self._noting("converter"):
            self._model = make()
        if self._model is None:
            why = "the converter cannot be made, so that nothing after it is known"
            return DryRun(tuple(self._misses), exact=False, why=why)
        writer = self._model.gguf_writer
        writer.use_temp_file = False  # its tensors would be evaluated for the file
        self._name_sources()
        self._watch(writer)
        self._tensors()
        self._metadata()
        self._pack(writer)
        contents = writer_contents(writer, "")
        held = {each.name: each for each in contents.tensors}
        written = tuple(
            replace(tensor, type=held[name].dtype)
            for name, tensor in self._written.items()
            if name in held
        )
        told = source_names(written) | {name for miss in self._misses for name in miss.names}
        return DryRun(
            tuple(self._misses),
            written,
            tuple(name for name in dict.fromkeys(self._without_result) if name not in told),
            self._filtered(),
            contents.metadata,
            contents.tensors,
            self._assumed,
        )

    # -- the tensors -----------------------------------------------------------------------------

    def _name_sources(self) -> None:
        state = instance_dict(self._model)
        self._names |= leaf_names(state.get("model_tensors"))
        for name, tensor in (self._conversion.adapter or {}).items():
            self._names[id(tensor)] = name

    def _watch(self, writer: Any) -> None:
        """Put ourselves before the converter's functions."""
        cls = type(self._model)
        take, modify, add = cls.get_tensors, cls.modify_tensors, type(writer).add_tensor

        def get_tensors(model: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            self._source = iter(take(model, *args, **kwargs))
            return self._seen()

        def modify_tensors(model: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            if self._inside:
                yield from modify(model, *args, **kwargs)
            else:
                yield from self._modified(modify, model, *args, **kwargs)

        def add_tensor(writer: Any, name: Any, tensor: Any, *args: Any, **kwargs: Any) -> None:
            described = self._described(name, tensor, sys._getframe(1))
            try:
                add(writer, name, tensor, *args, **kwargs)
            except _FAILURES as error:
                miss = self._missed(error, "raised", name)
                first = self._written.get(name) if miss.kind == "duplicate" else None
                names = (*(first.sources if first else ()), *described.sources)
                self._misses.append(replace(miss, names=names))
            else:
                self._written[name] = described

        cls.get_tensors, cls.modify_tensors = get_tensors, modify_tensors
        type(writer).add_tensor = add_tensor

    def _seen(self) -> Iterator[Any]:
        for name, data in self._source:
            self._at = name
            self._taken += 1
            yield name, data
        self._at = ""

    def _modified(
        self, modify: Callable[..., Any], model: Any, *args: Any, **kw: Any
    ) -> Iterator[Any]:
        data = kw.get("data_torch", args[0] if args else None)
        name = kw.get("name", args[1] if len(args) > 1 else self._at)
        self._note_leaves(data, name)
        count = 0
        with self._noting("raised", name):
            self._inside = True
            try:
                for each in modify(model, *args, **kw):
                    count += 1
                    self._inside = False
                    yield each
                    self._inside = True
            finally:
                self._inside = False
            if not count:
                self._without_result.append(name)

    def _note_leaves(self, data: Any, name: str) -> None:
        """That what *data* is made of stands for checkpoint tensor *name*."""
        for tensor in _lazies_of(data):
            self._kept.append(tensor)
            for source in _sources(tensor):
                self._names.setdefault(id(source), name)
                self._kept.append(source)

    def _described(self, name: str, tensor: Any, caller: FrameType) -> WrittenTensor:
        made = history(tensor, self._names) if is_lazy(tensor) else None
        named = [leaf.name for leaf in leaves(made) if leaf.name] if made is not None else []
        sources = tuple(dict.fromkeys(named)) or ((self._at,) if self._at else ())
        shape, dtype, _ = shape_and_dtype(tensor)
        site = self._place(caller.f_code, caller.f_lineno)
        return WrittenTensor(
            name, sources, not named and bool(sources), made, shape, dtype, "?", site, ""
        )

    def _tensors(self) -> None:
        """The whole loop; after a failure in it the tensors that are left."""
        while True:
            before = self._taken
            try:
                self._model.prepare_tensors()
                return
            except _FAILURES as error:
                self._note(error, "raised", self._at)
            if not self._at or self._taken == before:
                return
            self._go_on()

    def _go_on(self) -> None:
        """Have prepare_tensors take the tensors that are left, and do nothing else twice."""
        cls = type(self._model)
        cls.get_tensors = lambda model: self._seen()
        cls.generate_extra_tensors = lambda model: ()
        for done in ("dequant_model", "_generate_nvfp4_tensors"):
            if class_attribute(cls, done) is not None:
                setattr(cls, done, lambda model: None)

    def _filtered(self) -> tuple[str, ...]:
        """The checkpoint's names that the converter's filter_tensors refuses."""
        cls, folder = type(self._model), self._conversion.dir_model
        if class_attribute(cls, "filter_tensors") is None or folder is None:
            return ()
        if self._conversion.adapter is not None:
            return ()
        found = []
        with contextlib.suppress(CheckpointError):
            for tensor in read_checkpoint(folder, mistral=self._conversion.mistral).tensors:
                with contextlib.suppress(*_FAILURES):
                    if not cls.filter_tensors((tensor.name, lambda: None)):
                        found.append(tensor.name)
        return tuple(found)

    # -- metadata and tokenizer ------------------------------------------------------------------

    def _metadata(self) -> None:
        cls, done = type(self._model), set()
        parameters, vocabulary = cls.set_gguf_parameters, cls.set_vocab

        def set_gguf_parameters(model: Any) -> None:
            done.add("parameters")
            self._parameters(parameters, model)

        def set_vocab(model: Any) -> None:
            done.add("vocabulary")
            with self._noting("tokenizer"):
                vocabulary(model)

        cls.set_gguf_parameters, cls.set_vocab = set_gguf_parameters, set_vocab
        if class_attribute(cls, "prepare_metadata") is not None:
            with self._noting("metadata"):
                self._model.prepare_metadata(vocab_only=False)
        if "parameters" not in done:
            set_gguf_parameters(self._model)
        if "vocabulary" not in done and hasattr(self._model, "hf_arch"):
            set_vocab(self._model)

    def _parameters(self, original: Callable[[Any], None], model: Any) -> None:
        """*original*, again for each key that the config lacks, which is given a value so that
        the next one comes to light. What fails otherwise by then may be the value's fault."""
        sure: set[str] | None = None
        for _ in range(_RETRIES):
            try:
                original(model)
                break
            except _FAILURES as error:
                miss = self._missed(error, "metadata", "")
                if miss.kind != "hparam" or miss in self._misses:
                    if sure is None:
                        self._misses.append(miss)
                    break
                self._misses.append(miss)
                if sure is None:
                    sure = self._keys(model)
                model.hparams[miss.names[0]] = 1
        if sure is not None:
            self._assumed = tuple(sorted(self._keys(model) - sure))

    @staticmethod
    def _keys(model: Any) -> set[str]:
        return {each.key for each in writer_contents(model.gguf_writer, "").metadata}

    def _pack(self, writer: Any) -> None:
        """As write_kv_data_to_file does: a value of the wrong type fails there, without a name."""
        for held in writer.kv_data if type(writer.kv_data) is list else [writer.kv_data]:
            for key, value in held.items():
                if key in self._assumed:
                    continue
                sub = {"sub_type": value.sub_type} if hasattr(value, "sub_type") else {}
                with self._noting("metadata", key):
                    writer._pack_val(value.value, value.type, add_vtype=True, **sub)

    # -- failures --------------------------------------------------------------------------------

    def _log(self, record: logging.LogRecord) -> None:
        """In the place of every handler: nothing is printed, and no file of the log written."""
        if record.levelno >= logging.ERROR:
            with contextlib.suppress(Exception):
                self._logged.append(record.getMessage())

    @contextlib.contextmanager
    def _noting(self, kind: Kind, tensor: str = "") -> Iterator[None]:
        try:
            yield
        except _FAILURES as error:
            self._note(error, kind, tensor)

    def _note(self, error: BaseException, kind: Kind, tensor: str) -> None:
        self._misses.append(self._missed(error, kind, tensor))

    def _missed(self, error: BaseException, kind: Kind, tensor: str) -> Miss:
        frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        frame, line = next(filter(self._is_own, reversed(frames)), frames[-1])
        where, words = self._place(frame.f_code, line), self._words(error, frame, line)
        last = frames[-1][0]
        name = last.f_code.co_name
        if name == "map_tensor_name":
            return Miss("unmapped", tensor, words, where)
        if name == "add_tensor_info" and "uplicated tensor name" in words:
            return Miss("duplicate", tensor, words, where)
        if "Unprocessed experts" in words:
            listed = frame.f_locals.get("experts")
            names = (each for each in listed if type(each) is str) if is_a(listed, list) else ()
            return Miss("experts", "", words, where, tuple(names))
        if isinstance(error, KeyError):
            asked = frame.f_locals.get("keys") if name == "find_hparam" else error.args
            keys = tuple(key for key in asked or () if type(key) is str)
            if keys and (name == "find_hparam" or "hparams" in _source_line(frame, line)):
                caller = frames[-2] if name == "find_hparam" and len(frames) > 1 else (frame, line)
                place = self._place(caller[0].f_code, caller[1])
                return Miss("hparam", tensor, words, place, keys)
        if name == "get_tensors" and type(last.f_locals.get("name")) is str:
            tensor = last.f_locals["name"]
        return Miss(kind, tensor, words, where)

    def _words(self, error: BaseException, frame: FrameType, line: int) -> str:
        """What is said; the last error logged where the script exits, the line that raised where
        it says nothing."""
        if isinstance(error, SystemExit):
            return self._logged[-1] if self._logged else f"the script exits: {error.code}"
        said = " ".join(str(error).split())[:_LONGEST]
        return f"{type(error).__name__}: {said or _source_line(frame, line)}"

    def _is_own(self, place: tuple[FrameType, int]) -> bool:
        """Whether it is code of the script's, gguf included; not a library's."""
        file = place[0].f_code.co_filename
        return file.startswith(self._root) and "site-packages" not in file

    def _place(self, code: CodeType, line: int) -> str:
        file = Path(code.co_filename)
        short = file.relative_to(self._root) if file.is_relative_to(self._root) else file.name
        return f"{short}:{line} {code.co_qualname}"


def _source_line(frame: FrameType, line: int) -> str:
    return linecache.getline(frame.f_code.co_filename, line).strip()


def _lazies_of(data: Any) -> list[Any]:
    """*data*, or the halves of a LoRA tensor."""
    state = instance_dict(data)
    return [each for each in (data, state.get("_lora_A"), state.get("_lora_B")) if is_lazy(each)]


def _sources(lazy: Any) -> Iterator[Any]:
    """What stands for data at the leaves of the graph: data itself, or what reads it."""
    stack, seen = [lazy], set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        state = instance_dict(node)
        below = graph_inputs(node)
        if below:
            stack += below
        elif state["_data"] is not None:
            yield state["_data"]
        elif state["_args"]:
            yield state["_args"][0]
