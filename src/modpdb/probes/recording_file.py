"""Recordings on disk: one safetensors file, written while the program runs.

A recording's file is a safetensors file: eight bytes that give the header's length, a JSON header,
then the tensors' data. Its `__metadata__` has `modpdb.recording: "1"`. The U8 tensor
`modpdb.calls` is UTF-8 JSON, the calls in the order in which they began:

    {"what": str, "left_out": int, "problems": [str], "calls": [
        {"number": int, "root": str, "path": str, "class": str, "nth": int, "parent": int,
         "depth": int, "thread": str, "ended": int, "raised": bool, "unseen": str,
         "inputs": [TENSOR], "outputs": [TENSOR]}]}
    TENSOR: {"name": str, "shape": [int] or null, "dtype": str, "device": str, "why": str,
             "statistics": null or [elements, min, max, mean, std, NaN, Inf, zeros], of which
                           min to std and zeros may be null,
             "stored": the tensor of this file that has the values, or ""}

The fields are those of `recording.Call` and `recording.TensorNote`. All other tensors are values,
named by path, number of the call and place: `model.layers.0.mlp#1.out`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from modpdb.probes._torch import torch_or_none, undisturbed
from modpdb.probes.checkpoints import CheckpointError, read_header
from modpdb.probes.recording import Call, Recording, TensorNote
from modpdb.probes.tensors import CHUNK, Statistics, local_tensor, short_dtype

SUFFIX = ".safetensors"
CALLS = "modpdb.calls"
_ROOM, _LITTLE_ROOM = 1 << 18, 1 << 9  # bytes left for the header: with values, without
_PIECE = 1 << 24  # bytes copied at a time
_CALLS_LIMIT = 1 << 30  # bytes

# torch's dtypes by their names in a safetensors header.
_DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "float16": "F16", "bfloat16": "BF16",
    "float32": "F32", "float64": "F64", "complex64": "C64", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
_BY_SHORT_NAME = {short_dtype(name): torch_name for torch_name, name in _DTYPES.items()}


class RecordingError(Exception):
    """A file that cannot be written, or read as a recording: what was found and expected."""


@dataclass(slots=True)
class _Stored:
    dtype: str
    shape: tuple[int, ...]
    start: int  # in the file
    nbytes: int


# -- writing -------------------------------------------------------------------------------------


class RecordingWriter:
    """Streams values into a file beside *path*, which takes its name when all is written.

    Memory is bounded by a chunk. The header comes first and is known last: room is left for it,
    and the tensors in its way are moved to the end where that is too little. RecordingError where
    *path* exists, unless *force*, or its folder cannot be written.
    """

    def __init__(self, path: Path, *, values: bool, force: bool = False) -> None:
        self.path = path
        self.bytes = 0  # of values
        self.failure = ""  # why nothing more is stored
        self._force = force
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._tensors: dict[str, _Stored] = {}
        self._end = 8 + (_ROOM if values else _LITTLE_ROOM)
        self._writing = threading.RLock()  # modules may run in several threads
        if path.exists() and not force:
            raise RecordingError(f"{path} is there already; --force overwrites it")
        try:
            self._file: IO[bytes] = open(self._part, "xb+")  # noqa: SIM115
        except OSError as error:
            raise RecordingError(f"{path.parent}: {error.strerror}") from None

    def store(self, key: str, tensor: Any) -> str:
        """Append the values of *tensor*, row-major; gives why not, "" where it did."""
        with self._writing:
            return self._store(key, tensor)

    def _store(self, key: str, tensor: Any) -> str:
        torch = torch_or_none()
        shard = local_tensor(tensor)
        tensor = tensor if shard is None else shard
        dtype = _DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        if self.failure:
            return self.failure
        if dtype is None or tensor.layout is not torch.strided or tensor.device.type == "meta":
            return "no values in safetensors' form"
        start = self._end
        try:
            self._file.seek(start)
            for piece in _rows(tensor):
                _write(self._file, piece)
            self._file.flush()  # what a forked child finds in the buffer it would write as well
        except OSError as error:
            self.failure = f"{self.path}: {error.strerror}; no further values are stored"
            return self.failure
        except RuntimeError as error:  # of whatever device or subclass it is
            return str(error).splitlines()[0]
        self._end = self._file.tell()
        self.bytes += self._end - start
        self._tensors[key] = _Stored(dtype, tuple(tensor.shape), start, self._end - start)
        return ""

    def finish(self, recording: Recording) -> None:
        """Write the calls and the header, and give the file its name. RecordingError if not."""
        try:
            self._append_calls(recording)
            self._write_header()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._rename()
        except OSError as error:
            raise RecordingError(f"{self.path}: {error.strerror}") from None
        finally:
            self.discard()
        recording.file = str(self.path)

    def discard(self) -> None:
        self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink()

    def _append_calls(self, recording: Recording) -> None:
        text = json.dumps(_to_json(recording), ensure_ascii=True, separators=(",", ":"))
        data = text.encode("ascii")
        self._file.seek(self._end)
        self._file.write(data)
        self._tensors[CALLS] = _Stored("U8", (len(data),), self._end, len(data))
        self._end += len(data)

    def _write_header(self) -> None:
        """Moves tensors to the end until the header fits before the first, padded with blanks."""
        while True:
            first = min(each.start for each in self._tensors.values())
            header = json.dumps(self._header(first), separators=(",", ":")).encode()
            if 8 + len(header) <= first:
                break
            for stored in self._tensors.values():
                if stored.start < 8 + len(header) + 64:  # the offsets' digits may grow
                    self._move_to_end(stored)
        self._file.seek(0)
        self._file.write((first - 8).to_bytes(8, "little") + header.ljust(first - 8))

    def _header(self, data: int) -> dict[str, Any]:
        # In the order of their data: readers check that it has no holes.
        ordered = sorted(self._tensors.items(), key=lambda item: (item[1].start, item[1].nbytes))
        return {"__metadata__": {"modpdb.recording": "1"}} | {
            name: {
                "dtype": each.dtype,
                "shape": each.shape,
                "data_offsets": (each.start - data, each.start - data + each.nbytes),
            }
            for name, each in ordered
        }

    def _move_to_end(self, stored: _Stored) -> None:
        for at in range(stored.start, stored.start + stored.nbytes, _PIECE):
            self._file.seek(at)
            piece = self._file.read(min(_PIECE, stored.start + stored.nbytes - at))
            self._file.seek(self._end + at - stored.start)
            self._file.write(piece)
        stored.start = self._end
        self._end += stored.nbytes

    def _rename(self) -> None:
        if self._force:
            os.replace(self._part, self.path)
            return
        try:
            os.link(self._part, self.path)  # which, unlike a renaming, overwrites nothing
        except FileExistsError:
            raise RecordingError(f"{self.path} has appeared meanwhile; nothing is saved") from None
        except OSError:  # a file system without links
            os.replace(self._part, self.path)


def _rows(tensor: Any) -> Iterator[Any]:
    """The elements in row-major order, in contiguous pieces of at most about CHUNK."""
    if tensor.is_contiguous() and not tensor.is_neg() and not tensor.is_conj():
        flat = tensor.view(-1)
        for start in range(0, flat.shape[0], CHUNK):
            yield flat[start : start + CHUNK]
    elif math.prod(tensor.shape) <= CHUNK:
        yield tensor.resolve_conj().resolve_neg().contiguous().view(-1)
    else:
        for part in tensor.tensor_split(2) if tensor.shape[0] > 1 else tensor:
            yield from _rows(part)


def _write(file: IO[bytes], piece: Any) -> None:
    piece = piece.cpu()
    nbytes = piece.shape[0] * piece.element_size()
    if nbytes:  # by address: torch may have been installed without numpy
        file.write((ctypes.c_char * nbytes).from_address(piece.data_ptr()))


def _to_json(recording: Recording) -> dict[str, Any]:
    return {
        "what": recording.what,
        "left_out": recording.left_out,
        "problems": recording.problems,
        "calls": [
            {
                "number": call.number,
                "root": call.root,
                "path": call.path,
                "class": call.class_name,
                "nth": call.nth,
                "parent": call.parent,
                "depth": call.depth,
                "thread": call.thread,
                "ended": call.ended,
                "raised": call.raised,
                "unseen": call.unseen,
                "inputs": [_note_to_json(note) for note in call.inputs],
                "outputs": [_note_to_json(note) for note in call.outputs],
            }
            for call in recording.calls
        ],
    }


def _note_to_json(note: TensorNote) -> dict[str, Any]:
    found = note.statistics
    numbers: list[float | None] | None = None
    if found is not None:
        values = (found.minimum, found.maximum, found.mean, found.std)
        held = [each if each is not None and math.isfinite(each) else None for each in values]
        numbers = [found.elements, *held, found.nan, found.inf, note.zeros]
    return {
        "name": note.name,
        "shape": note.shape,
        "dtype": note.dtype,
        "device": note.device,
        "statistics": numbers,
        "why": note.no_statistics,
        "stored": note.stored,
    }


# -- reading -------------------------------------------------------------------------------------


class SavedValues:
    """The values in a recording's file, read in chunks."""

    def __init__(self, path: Path, tensors: dict[str, _Stored]) -> None:
        self._path = path
        self._tensors = tensors

    def chunks(self, name: str) -> Iterator[Any]:
        """The elements of *name* in order, as flat tensors of at most CHUNK, on the CPU."""
        torch = torch_or_none()
        stored = self._tensors[name]
        dtype = getattr(torch, _BY_SHORT_NAME[short_dtype(stored.dtype)])
        with open(self._path, "rb") as file:
            file.seek(stored.start)
            for _ in range(0, math.prod(stored.shape), CHUNK):
                left = stored.start + stored.nbytes - file.tell()
                data = bytearray(file.read(min(left, CHUNK * dtype.itemsize)))
                with undisturbed(torch):
                    yield torch.frombuffer(data, dtype=dtype)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors


def read_recording(path: Path) -> tuple[Recording, SavedValues]:
    """The recording in *path*, of which nothing is believed before it is checked.

    RecordingError names the file, what was found and what was expected.
    """
    try:
        entries = read_header(path)
        with open(path, "rb") as file:
            data = 8 + int.from_bytes(file.read(8), "little")
            listed = json.loads(file.read(data - 8))
            stored = {
                each.name: _Stored(
                    listed[each.name]["dtype"],
                    each.shape or (),
                    data + listed[each.name]["data_offsets"][0],
                    each.nbytes or 0,
                )
                for each in entries
            }
            calls = stored.pop(CALLS, None)
            if calls is None or calls.dtype != "U8":
                raise RecordingError(f"{path}: no recording: it has no U8 tensor {CALLS!r}")
            if calls.nbytes > _CALLS_LIMIT:
                raise RecordingError(
                    f"{path}: {CALLS!r} has {calls.nbytes:,} bytes, expected up to {_CALLS_LIMIT:,}"
                )
            file.seek(calls.start)
            found = json.loads(file.read(calls.nbytes), parse_constant=_no_number)
    except CheckpointError as error:
        raise RecordingError(str(error)) from None
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{path}: {CALLS!r} is not JSON: {error}") from None
    return _recording(path, found, stored), SavedValues(path, stored)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _recording(path: Path, found: Any, stored: dict[str, _Stored]) -> Recording:
    match found:
        case {
            "what": str(what),
            "left_out": int(left_out),
            "problems": list(problems),
            "calls": list(calls),
        } if all(type(each) is str for each in problems):
            pass
        case _:
            raise RecordingError(
                f"{path}: {CALLS!r} has {found!r:.80}, expected what, left_out, problems and calls"
            )
    recording = Recording(path.name, what, file=str(path), left_out=left_out, problems=problems)
    for index, each in enumerate(calls, 1):
        recording.calls.append(_call(f"{path}: call {index}", each, index, stored))
    return recording


def _call(where: str, found: Any, number: int, stored: dict[str, _Stored]) -> Call:
    match found:
        case {
            "number": int(given), "root": str(root), "path": str(path), "class": str(class_name),
            "nth": int(nth), "parent": int(parent), "depth": int(depth), "thread": str(thread),
            "ended": int(ended), "raised": bool(raised), "unseen": str(unseen),
            "inputs": list(inputs), "outputs": list(outputs),
        }:  # fmt: skip
            pass
        case _:
            raise RecordingError(f"{where} is {found!r:.80}, expected the fields of a call")
    if given != number or not 0 <= parent < number or nth < 1 or ended < 0 or depth < 0:
        raise RecordingError(
            f"{where} has number {given}, parent {parent}, nth {nth}, depth {depth}, ended "
            f"{ended}; expected number {number}, a parent before it, and none negative"
        )
    return Call(
        number, root, path, class_name, nth, parent, depth, thread,
        inputs=tuple(_note(f"{where}, input {n}", one, stored) for n, one in enumerate(inputs)),
        outputs=tuple(_note(f"{where}, output {n}", one, stored) for n, one in enumerate(outputs)),
        ended=ended, raised=raised, unseen=unseen,
    )  # fmt: skip


def _note(where: str, found: Any, stored: dict[str, _Stored]) -> TensorNote:
    match found:
        case {
            "name": str(name), "shape": shape, "dtype": str(dtype), "device": str(device),
            "statistics": numbers, "why": str(why), "stored": str(key),
        } if shape is None or (type(shape) is list and all(map(_is_count, shape))):  # fmt: skip
            pass
        case _:
            raise RecordingError(f"{where} is {found!r:.80}, expected the fields of a tensor")
    if key and (key not in stored or short_dtype(stored[key].dtype) not in _BY_SHORT_NAME):
        raise RecordingError(f"{where} is stored as {key!r}, which is no tensor of the file")
    if key and (shape is None or list(stored[key].shape) != shape):
        raise RecordingError(f"{where} has the shape {shape}, {key!r} {list(stored[key].shape)}")
    note = TensorNote(
        name, None if shape is None else tuple(shape), dtype, device, None, None, why, key
    )
    if numbers is None:
        return note
    if not _are_statistics(numbers):
        raise RecordingError(
            f"{where} has the statistics {numbers!r:.80}, expected eight numbers: "
            "elements, min, max, mean, std, NaN, Inf, zeros"
        )
    elements, minimum, maximum, mean, std, nan, inf, zeros = numbers
    statistics = Statistics(elements, minimum, maximum, mean, std, nan, inf)
    return TensorNote(name, note.shape, dtype, device, statistics, zeros, why, key)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _are_statistics(found: Any) -> bool:
    if type(found) is not list or len(found) != 8:
        return False
    elements, *values, nan, inf, zeros = found
    counts = (elements, nan, inf) if zeros is None else (elements, nan, inf, zeros)
    return all(map(_is_count, counts)) and all(
        each is None or (type(each) in (int, float) and math.isfinite(each)) for each in values
    )
