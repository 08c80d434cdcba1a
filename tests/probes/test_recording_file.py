"""A recording's file: what was written is read back, and nothing in it is believed."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from modpdb.probes import recording_file
from modpdb.probes.recording import Call, Recording, TensorNote
from modpdb.probes.recording_file import CALLS, RecordingError, RecordingWriter, read_recording
from modpdb.probes.tensors import Statistics, statistics

DTYPES = (
    *(torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8),
    *(torch.bool, torch.complex64, torch.float8_e4m3fn),
)


def note(tensor: torch.Tensor, stored: str) -> TensorNote:
    return TensorNote("", tuple(tensor.shape), "f32", "cpu", None, None, "not asked", stored)


def write(path: Path, tensors: dict[str, torch.Tensor], **options: Any) -> Recording:
    writer = RecordingWriter(path, values=True, **options)
    recording = Recording("1", "every module")
    for number, (name, tensor) in enumerate(tensors.items(), 1):
        assert writer.store(name, tensor) == ""
        call = Call(number, "model", name, "Linear", 1, 0, 0, outputs=(note(tensor, name),))
        recording.calls.append(call)
    writer.finish(recording)
    return recording


def same(one: torch.Tensor, two: torch.Tensor) -> bool:
    return (
        one.dtype == two.dtype
        and one.shape == two.shape
        and one.reshape(-1).view(torch.uint8).equal(two.contiguous().reshape(-1).view(torch.uint8))
    )


tensor = st.builds(
    lambda dtype, shape, turned: (lambda made: made.t() if turned and made.ndim == 2 else made)(
        torch.randint(0, 2, shape).to(dtype)
    ),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 9), max_size=3),
    st.booleans(),
)


@given(
    st.lists(tensor, max_size=8), st.sampled_from([8, 64, 1 << 12]), st.sampled_from([3, 1 << 20])
)
@settings(max_examples=40, deadline=None)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, made: list[torch.Tensor], room: int, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("file") / "run.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording_file, "_ROOM", room)
        patch.setattr(recording_file, "CHUNK", chunk)
        patch.setattr(recording_file, "_PIECE", 5)
        tensors = {f"layers.{number}": each for number, each in enumerate(made)}
        recording = write(path, tensors)
        read, values = read_recording(path)
        assert read.calls == recording.calls
        for name, expected in tensors.items():
            pieces = [*values.chunks(name)]
            got = torch.cat(pieces) if pieces else torch.empty(0, dtype=expected.dtype)
            assert same(got.reshape(expected.shape), expected)
    loaded = load_file(path)
    assert set(loaded) == {*tensors, CALLS}
    assert all(same(loaded[name], expected) for name, expected in tensors.items())
    assert [each.name for each in path.parent.iterdir()] == ["run.safetensors"]


def test_statistics_survive(tmp_path: Path) -> None:
    found = statistics(torch.tensor([1.0, float("nan"), -2.5, float("inf")]))
    nothing = Statistics(1, None, None, None, None, 1, 0)
    recording = Recording("1", "every module", left_out=2, problems=["a problem"])
    notes = (
        TensorNote("x", (4,), "f32", "cpu", found, None),
        TensorNote("y", None, "f32", "meta", None, None, "symbolic shape"),
        TensorNote("\x1b[31m\ud800", (1,), "f32", "cpu", nothing, 0),
    )
    recording.calls.append(Call(1, "m", "", "C", 1, 0, 0, "t1", notes, (), 0, True, "compiled"))
    path = tmp_path / "run.safetensors"
    RecordingWriter(path, values=False).finish(recording)
    read, _ = read_recording(path)
    assert (read.calls, read.left_out, read.problems) == (recording.calls, 2, ["a problem"])
    assert path.stat().st_size < 3000


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    writer = RecordingWriter(path, values=False)
    path.write_text("mine")
    with pytest.raises(RecordingError, match="appeared meanwhile"):
        writer.finish(Recording("1", ""))
    with pytest.raises(RecordingError, match="is there already; --force"):
        RecordingWriter(path, values=False)
    assert path.read_text() == "mine"
    RecordingWriter(path, values=False, force=True).finish(Recording("1", "new"))
    assert read_recording(path)[0].what == "new"
    with pytest.raises(RecordingError, match="No such file or directory"):
        RecordingWriter(tmp_path / "none" / "run.safetensors", values=False)
    assert [each.name for each in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_full_disk_is_said_and_does_not_raise(tmp_path: Path) -> None:
    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    writer = RecordingWriter(tmp_path / "run.safetensors", values=True)
    file, writer._file = writer._file, Full(writer._file)  # type: ignore[assignment]
    assert "No space left on device" in writer.store("a", torch.ones(3))
    assert "No space left on device" in writer.store("b", torch.ones(3))
    writer._file = file
    recording = Recording("1", "")
    writer.finish(recording)
    assert set(load_file(tmp_path / "run.safetensors")) == {CALLS}


def test_several_threads_store(tmp_path: Path) -> None:
    """Each value is what its thread gave: none is written over another's."""
    writer = RecordingWriter(tmp_path / "run.safetensors", values=True)
    names = [f"{thread}.{nth}" for thread in range(4) for nth in range(8)]

    def store(thread: int) -> None:
        for name in names[thread * 8 : thread * 8 + 8]:
            writer.store(name, torch.full((200_000,), float(thread)))

    threads = [threading.Thread(target=store, args=(each,)) for each in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval)
    writer.finish(Recording("1", "every module"))
    _, values = read_recording(writer.path)
    for name in names:
        assert all(bool((each == float(name[0])).all()) for each in values.chunks(name))


def test_what_has_no_values(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "run.safetensors", values=True)
    for each in (
        torch.ones(2, device="meta"),
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, dtype=torch.complex128),
    ):
        assert writer.store("x", each) == "no values in safetensors' form"
    assert writer.store("conj", torch.tensor([1 + 2j, 3j]).conj()) == ""
    writer.finish(Recording("1", ""))
    assert load_file(tmp_path / "run.safetensors")["conj"].tolist() == [1 - 2j, -3j]


# -- files that are not to be trusted ------------------------------------------------------------


def tampered(path: Path, change: Any) -> None:
    """Rewrite the calls of the file at *path* as *change* makes them."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    start, end = header[CALLS]["data_offsets"]
    body = data[8 + length :]
    calls = json.loads(body[start:end])
    text = json.dumps(change(calls)).encode()
    header[CALLS] = {
        "dtype": "U8",
        "shape": [len(text)],
        "data_offsets": [start, start + len(text)],
    }
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + body[:start] + text)


def set_in(*keys: Any, to: Any) -> Any:
    def change(found: Any) -> Any:
        at = found
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = to
        return found

    return change


OUT = ("calls", 0, "outputs", 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: [], "expected what, left_out, problems and calls"),
        (set_in("problems", to=[1]), "expected what, left_out"),
        (set_in("calls", to=[7]), "call 1 is 7, expected the fields of a call"),
        (set_in("calls", 0, "nth", to="1"), "expected the fields of a call"),
        (set_in("calls", 0, "nth", to=0), "none negative"),
        (set_in("calls", 0, "parent", to=1), "a parent before it"),
        (set_in("calls", 0, "number", to=9), "expected number 1"),
        (set_in("calls", 0, "ended", to=-1), "none negative"),
        (set_in(*OUT, "shape", to=[-1]), "output 0 is .*expected the fields of a tensor"),
        (set_in(*OUT, "shape", to=[3]), "has the shape"),
        (set_in(*OUT, "stored", to="none"), "is no tensor of the file"),
        (set_in(*OUT, "statistics", to=[1, 2]), "expected eight numbers"),
        (set_in(*OUT, "statistics", to=[1, 0, 0, 0, "x", 0, 0, 0]), "expected eight numbers"),
        (
            set_in(*OUT, "statistics", to=[1, 0, 0, 0, float("inf"), 0, 0, 0]),
            "is not JSON: Infinity",
        ),
    ],
)
def test_a_field_that_is_wrong_is_named(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "run.safetensors"
    write(path, {"layer": torch.ones(2)})
    tampered(path, change)
    with pytest.raises(RecordingError, match=said):
        read_recording(path)


def test_other_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(RecordingError, match=r"no recording: it has no U8 tensor 'modpdb\.calls'"):
        read_recording(path)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(RecordingError, match=r"expected at least 8|is said to have"):
        read_recording(path)
    with pytest.raises(RecordingError, match="No such file"):
        read_recording(tmp_path / "none")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_other_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "run.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording_file, "_ROOM", 512)
        write(path, {"layer": torch.ones(2)})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([None, len(content) // 2, -1]))])
    try:
        recording, values = read_recording(path)
    except RecordingError:
        return
    for call in recording.calls:
        for _, each in call.notes():
            if each.stored:
                assert sum(len(piece) for piece in values.chunks(each.stored)) == 2
