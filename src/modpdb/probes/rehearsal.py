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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

from modpdb.probes._static import class_attribute, mro, namespace
from modpdb.probes._torch import torch_or_none
from modpdb.probes.checkpoints import read_checkpoint
from modpdb.probes.conversion import Conversion
from modpdb.probes.dry_run import DryRun, Kind, Miss, source_names
from modpdb.probes.fence import Fence
from modpdb.probes.files import CheckpointError
from modpdb.probes.provenance import Provenance, place
from modpdb.probes.writer import writer_contents

_FAILURES = (Exception, SystemExit)
_RETRIES = 32  # missing keys of the config that are passed over
_ASSUMED = 1  # for one of them: it divides whatever there is
_LONGEST = 1_000  # characters of what an exception says
_DEEP = 10_000  # of Python's recursion: a graph is pickled node by node


def rehearse(
    make: Callable[[], Any], conversion: Conversion, scratch: str, *, only_tensors: bool = False
) -> DryRun:
    """Run the converter that *make* gives, from its first tensor to the last key, or tensor.

    What libraries put into temporary files and transformers into its cache of modules goes to the
    folder *scratch*; to change anything else fails.
    """
    sys.setrecursionlimit(max(sys.getrecursionlimit(), _DEEP))
    tempfile.tempdir = os.environ["TMPDIR"] = scratch
    if "transformers.dynamic_module_utils" in sys.modules:
        sys.modules["transformers.dynamic_module_utils"].HF_MODULES_CACHE = scratch  # type: ignore[attr-defined]
    sys.addaudithook(Fence(scratch))
    torch = torch_or_none()
    with torch.inference_mode() if torch is not None else contextlib.nullcontext():
        return _Rehearsal(conversion).run(make, only_tensors)


class _Rehearsal:
    def __init__(self, conversion: Conversion) -> None:
        self._conversion = conversion
        self._model: Any = None
        self._misses: list[Miss] = []
        self._logged: list[str] = []  # errors that the script logs before it exits
        self._root = str(Path(getattr(sys.modules["__main__"], "__file__", None) or ".").parent)
        self._given: list[str] = []  # keys that the config lacks
        self._assumed: tuple[str, ...] = ()
        # Of the loop over the tensors: where they come from, and how far it is.
        self._source: Iterator[Any] = iter(())
        self._at = ""
        self._taken = 0
        self._fruitless: dict[str, None] = {}  # tensors of which nothing was made, in order
        self._modifying = ""
        self._provenance = Provenance()

    def run(self, make: Callable[[], Any], only_tensors: bool) -> DryRun:
        logging.Logger.callHandlers = self._log  # type: ignore[method-assign,assignment]
        with self._noting("converter"):
            self._model = make()
        if self._model is None:
            why = "the converter cannot be made, so that nothing after it is known"
            return DryRun(tuple(self._misses), exact=False, why=why)
        writer = self._model.gguf_writer
        writer.use_temp_file = False  # its tensors would be evaluated for the file
        self._watch(writer)
        self._tensors()
        if not only_tensors:
            self._metadata()
            self._pack(writer)
        contents = writer_contents(writer, "")
        held = {each.name for each in contents.tensors}
        written = tuple(made for name, made in self._provenance.written.items() if name in held)
        told = source_names(written)
        told |= {name for miss in self._misses for name in (miss.tensor, *miss.names)}
        return DryRun(
            tuple(self._misses),
            written,
            tuple(name for name in self._fruitless if name not in told),
            self._filtered(),
            contents.metadata,
            contents.tensors,
            tuple(self._given),
            self._assumed,
        )

    # -- the tensors -----------------------------------------------------------------------------

    def _watch(self, writer: Any) -> None:
        """Put ourselves before the converter's functions.

        By wrapping them: at a stop the prompt runs inside a trace function, where Python calls
        no other.
        """
        cls = type(self._model)
        take, add = cls.get_tensors, type(writer).add_tensor

        def taken(model: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            self._source = iter(take(model, *args, **kwargs))
            return self._seen()

        def added(
            writer: Any,
            name: Any,
            tensor: Any,
            raw_shape: Any = None,
            raw_dtype: Any = None,
            **more: Any,
        ) -> None:
            before = len(self._provenance.duplicates)
            with contextlib.suppress(Exception):
                self._provenance.adds(sys._getframe())
            try:
                add(writer, name, tensor, raw_shape, raw_dtype, **more)
            except _FAILURES as error:
                second = self._provenance.duplicates[before:]
                first = self._provenance.written.get(name) if second else None
                names = [each for made in (first, *second) if made for each in made.sources]
                miss = self._missed(error, "raised", name)
                self._misses.append(replace(miss, names=tuple(names)))

        cls.get_tensors, type(writer).add_tensor = taken, added
        owners = [each for each in mro(cls) if "modify_tensors" in namespace(each)]
        for owner in owners:
            self._watch_modify(owner, owner is owners[-1])

    def _watch_modify(self, owner: Any, is_base: bool) -> None:
        """Of the overrides that have a tensor the innermost but the base's is its converter."""
        modify = namespace(owner)["modify_tensors"]
        here = place(modify.__code__) if type(modify) is FunctionType else ""

        def modify_tensors(
            model: Any, data_torch: Any, name: Any, bid: Any = None
        ) -> Iterable[tuple[Any, Any]]:
            if self._modifying:
                if not is_base:
                    self._provenance.converted[self._modifying] = here
                return modify(model, data_torch, name, bid)
            with contextlib.suppress(Exception):
                self._provenance.modifies(sys._getframe())
            self._provenance.converted[name] = here
            return self._modified(name, lambda: modify(model, data_torch, name, bid))

        owner.modify_tensors = modify_tensors

    def _seen(self) -> Iterator[Any]:
        for name, data in self._source:
            self._at = name
            self._taken += 1
            self._fruitless[name] = None
            yield name, data
        self._at = ""

    def _modified(self, name: str, modify: Callable[[], Any]) -> Iterator[tuple[Any, Any]]:
        """What *modify* gives; from its start again where it missed a key of the config."""
        for _ in range(_RETRIES):
            count, self._modifying = 0, name
            try:
                for each in modify():
                    count += 1
                    self._modifying = ""
                    yield each
                    self._modifying = name
            except _FAILURES as error:
                if not (self._note(error, "raised", name) and not count):
                    return
            else:
                break
            finally:
                self._modifying = ""
        if count:
            self._fruitless.pop(name, None)

    def _tensors(self) -> None:
        """The whole loop; after a failure in it the tensors that are left."""
        _at_entry(self._model, self._provenance.begins)
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
        """*original*, from its start again for each key that the config lacks."""
        for _ in range(_RETRIES):
            try:
                original(model)
                break
            except _FAILURES as error:
                if not self._note(error, "metadata", ""):
                    break
        if self._given:
            self._assumed = tuple(self._depending(original, model))

    def _depending(self, original: Callable[[Any], None], model: Any) -> list[str]:
        """The keys of the metadata that become others with another value for what is lacking."""
        before = self._metadata_held(model)
        model.hparams |= dict.fromkeys(self._given, _ASSUMED + 1)
        with contextlib.suppress(*_FAILURES):
            original(model)
        after = self._metadata_held(model)
        return sorted(key for key, value in before.items() if after.get(key) != value)

    @staticmethod
    def _metadata_held(model: Any) -> dict[str, object]:
        return {each.key: each.value for each in writer_contents(model.gguf_writer, "").metadata}

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

    def _note(self, error: BaseException, kind: Kind, tensor: str) -> bool:
        """Whether it was a key that the config lacks and that has a value from now on."""
        miss = self._missed(error, kind, tensor)
        lacking = miss.names[0] if miss.kind == "hparam" else ""
        sure = ("unmapped", "duplicate", "hparam", "tokenizer")
        doubtful = bool(self._given) and miss.kind not in sure
        self._misses.append(replace(miss, doubtful=doubtful))
        hparams = getattr(self._model, "hparams", None)
        if not lacking or lacking in self._given or type(hparams) is not dict:
            return False
        self._given.append(lacking)
        hparams[lacking] = _ASSUMED
        return True

    def _missed(self, error: BaseException, kind: Kind, tensor: str) -> Miss:
        walked = list(traceback.walk_tb(error.__traceback__))
        frames = [each for each in walked if each[0].f_code.co_filename != __file__] or walked
        frame, line = next(filter(self._is_own, reversed(frames)), frames[-1])
        where, words = place(frame.f_code, line), self._words(error, frame, line)
        last = frames[-1][0]
        name = last.f_code.co_name
        if name == "map_tensor_name":
            return Miss("unmapped", tensor, words, where)
        if name == "add_tensor_info" and "uplicated tensor name" in words:
            return Miss("duplicate", tensor, words, where)
        if "Unprocessed experts" in words:
            left = frame.f_locals.get("experts")
            names = tuple(each for each in left if type(each) is str) if type(left) is list else ()
            return Miss("experts", "", words, where, names)
        if isinstance(error, KeyError):
            asked: Any = last.f_locals.get("keys") if name == "find_hparam" else error.args
            listed = asked if type(asked) in (list, tuple) else ()
            keys = tuple(key for key in listed if type(key) is str)
            if keys and (name == "find_hparam" or "hparams" in _source_line(frame, line)):
                caller = frames[-2] if name == "find_hparam" and len(frames) > 1 else (frame, line)
                at = place(caller[0].f_code, caller[1])
                return Miss("hparam", tensor, words, at, keys)
        if name == "get_tensors" and type(last.f_locals.get("name")) is str:
            tensor = last.f_locals["name"]
        return Miss(kind, tensor, words, where)

    def _words(self, error: BaseException, frame: FrameType, line: int) -> str:
        """What is said; the last error logged where the script exits, the line that raised where
        it says nothing."""
        if isinstance(error, SystemExit):
            return self._logged[-1] if self._logged else f"the script exits: {error.code}"
        said = ""
        with contextlib.suppress(Exception):  # its __str__ is anybody's code
            said = " ".join(str(error).split())[:_LONGEST]
        return f"{_qualified(type(error))}: {said or _source_line(frame, line)}"

    def _is_own(self, place: tuple[FrameType, int]) -> bool:
        """Whether it is code of the script's, gguf included; not a library's."""
        file = place[0].f_code.co_filename
        return file.startswith(self._root) and "site-packages" not in file


def _qualified(cls: type[BaseException]) -> str:
    """As a traceback names it: `KeyError`, `struct.error`."""
    module = cls.__module__
    return (
        cls.__qualname__ if module in ("builtins", "__main__") else f"{module}.{cls.__qualname__}"
    )


def _source_line(frame: FrameType, line: int) -> str:
    return linecache.getline(frame.f_code.co_filename, line).strip()


def _at_entry(model: Any, look: Callable[[FrameType], None]) -> None:
    """Have *look* see a frame as that of a method of *model* which is about to run."""
    with contextlib.suppress(Exception):
        look(sys._getframe())
