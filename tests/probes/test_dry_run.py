"""The dry run, with a converter of the tests' own: no torch, no gguf."""

import enum
import logging
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from modpdb.probes.conversion import Conversion
from modpdb.probes.dry_run import DryRun, by_name_map, dry_run
from modpdb.probes.provenance import Provenance, WrittenTensor

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class State(enum.Enum):
    NO_FILE = 1


class Type(enum.Enum):
    UINT32 = 4


class Tensor:
    """What the converter hands around: neither lazy nor of a library."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.dtype = SimpleNamespace(itemsize=4)


class Writer:
    def __init__(self) -> None:
        self.kv_data, self.tensors, self.state = [{}], [{}], State.NO_FILE
        self.use_temp_file = False

    def add_tensor(self, name, tensor, raw_shape=None, raw_dtype=None) -> None:
        self.add_tensor_info(name, tensor)

    def add_tensor_info(self, name, tensor) -> None:
        if name in self.tensors[0]:
            raise ValueError(f"Duplicated tensor name {name!r}")
        self.tensors[0][name] = SimpleNamespace(shape=tensor.shape, nbytes=4, tensor=tensor)

    def add(self, key, value) -> None:
        self.kv_data[0][key] = SimpleNamespace(value=value, type=Type.UINT32)

    def _pack_val(self, value, kind, add_vtype) -> bytes:
        return struct.pack("I", value)


class Converter:
    model_arch = "zeta"

    def __init__(self, names, **hparams) -> None:
        self.names, self.hparams = names, hparams
        self.gguf_writer, self.tensor_map = Writer(), SimpleNamespace(mapping={})
        self.lazy = True

    def get_tensors(self):
        for name in self.names:
            yield name, Tensor(2)

    def map_tensor_name(self, name) -> str:
        if "odd" in name:
            raise ValueError(f"Can not map tensor {name!r}")
        return name.replace("layers", "blk")

    def modify_tensors(self, data_torch, name, bid):
        if "dropped" not in name:
            yield self.map_tensor_name(name), data_torch

    def prepare_tensors(self) -> None:
        for name, data in self.get_tensors():
            if "skipped" in name:
                continue
            for new_name, made in self.modify_tensors(data, name, None):
                self.before_writing(new_name)
                self.gguf_writer.add_tensor(new_name, made)

    def before_writing(self, name) -> None:
        pass

    def prepare_metadata(self, vocab_only) -> None:
        self.set_gguf_parameters()
        self.set_vocab()

    def set_gguf_parameters(self) -> None:
        self.gguf_writer.add("zeta.blocks", len(self.names))

    def set_vocab(self) -> None:
        pass


def run(model: object) -> DryRun:
    conversion = Conversion(model, type(model).__name__, "ZETA", None, False, True)
    frame = sys._getframe()
    return dry_run(conversion, [(frame, frame.f_locals)])


def kinds(found: DryRun) -> list[tuple[str, str]]:
    return [(miss.kind, miss.tensor) for miss in found.misses]


def test_every_failure_in_the_order_of_the_run() -> None:
    class Faulty(Converter):
        def before_writing(self, name) -> None:
            if name == "blk.1.heavy":
                raise RuntimeError("quantisation failed")

        def set_gguf_parameters(self) -> None:
            self.gguf_writer.add("zeta.heads", self.hparams["heads"])
            self.gguf_writer.add("zeta.width", self.hparams["width"] * 2)
            self.gguf_writer.add("zeta.name", "no number")

        def set_vocab(self) -> None:
            logging.error("Unexpected name of a token")
            sys.exit(1)

    names = ["layers.0.odd", "layers.1.heavy", "layers.2.q", "blk.2.q", "dropped", "skipped"]
    model = Faulty(names, heads=4)
    found = run(model)
    assert kinds(found) == [
        ("unmapped", "layers.0.odd"),
        ("raised", "layers.1.heavy"),
        ("duplicate", "blk.2.q"),
        ("hparam", ""),
        ("tokenizer", ""),
        ("metadata", "zeta.name"),
    ]
    words = [miss.words for miss in found.misses]
    assert words[1] == "RuntimeError: quantisation failed" and "set_gguf" in found.misses[3].where
    assert found.misses[3].names == ("width",) and words[4] == "Unexpected name of a token"
    assert found.misses[2].names == ("layers.2.q", "blk.2.q")  # of a duplicate both sources
    assert words[5].startswith("struct.error: ")
    assert [each.name for each in found.tensors] == ["blk.2.q"]
    assert found.dropped == ("dropped", "skipped")
    assert found.given == ("width",) and found.assumed == ("zeta.width",)
    assert found.exact and not found.afresh
    # The converter here is as it was.
    assert "width" not in model.hparams and model.gguf_writer.tensors == [{}]
    assert "modify_tensors" not in vars(Faulty) and logging.Logger.callHandlers.__name__ != "_log"


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("x"),
        lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY)),
        lambda path: path.mkdir(),
        lambda path: os.rename(path.parent / "there", path),
        lambda path: (path.parent / "there").unlink(),
        lambda path: os.rename(tempfile.mkdtemp(), path),
        lambda path: os.symlink(path.parent / "there", path),
        lambda path: shutil.copyfile(path.parent / "there", path),
        lambda path: subprocess.run(["touch", path], check=True),
        lambda path: os.system(f"touch {path}"),
    ],
)
def test_nothing_is_changed_outside(change, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("as it was")

    class Changing(Converter):
        def set_vocab(self) -> None:
            change(tmp_path / "new")

    found = run(Changing(["a"]))
    assert [miss.kind for miss in found.misses] == ["tokenizer"]
    assert "a dry run changes nothing" in found.misses[0].words
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "as it was"


def test_temporary_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    class Spooling(Converter):
        def set_vocab(self) -> None:
            with tempfile.NamedTemporaryFile(delete=False) as file:
                file.write(b"x")
            shutil.copyfile(__file__, os.path.join(tempfile.mkdtemp(), "copy"))

    assert not run(Spooling(["a"])).misses
    assert not list(tmp_path.iterdir())


def test_a_log_file_is_not_written(tmp_path: Path) -> None:
    log = logging.getLogger("modpdb.tests.dry_run")
    handler = logging.FileHandler(tmp_path / "log")
    log.addHandler(handler)

    class Logging(Converter):
        def set_vocab(self) -> None:
            log.error("to the file")

    try:
        assert not run(Logging(["a"])).misses
    finally:
        log.removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text() == ""


def test_after_it_has_begun_another_is_made() -> None:
    model_instance = Converter(["layers.0.q", "layers.1.odd"])
    model_instance.gguf_writer.add_tensor("blk.0.q", Tensor(2))
    conversion = Conversion(model_instance, "Converter", "ZETA", None, False, True)
    frame = sys._getframe()
    found = dry_run(conversion, [(frame, frame.f_locals)])
    assert found.afresh and found.exact and kinds(found) == [("unmapped", "layers.1.odd")]
    assert [each.name for each in found.tensors] == ["blk.0.q"]


def test_where_no_call_is_found_the_map_is_asked() -> None:
    begun = [Converter(["layers.0.q"])]
    begun[0].gguf_writer.add_tensor("blk.0.q", Tensor(2))
    begun[0].model_tensors = {"layers.0.q": None, "layers.0.k": None}
    begun[0].tensor_map.mapping = {"layers.0.q": ("ATTN_Q", "blk.0.attn_q")}
    found = run(begun[0])
    assert not found.exact and "is not found" in found.why
    assert kinds(found) == [("unmapped", "layers.0.k")]
    assert [(each.name, each.inferred) for each in found.written] == [("blk.0.attn_q", True)]


def test_what_was_written_is_not_guessed() -> None:
    model = Converter(["layers.0.q"])
    model.gguf_writer.add_tensor("blk.0.q", Tensor(2))
    model.model_tensors = {"layers.0.q": None, "layers.0.k": None}
    model.tensor_map.mapping = {"else": ("X", "x")}
    seen = Provenance()
    seen.written["blk.0.q"] = WrittenTensor("blk.0.q", ("layers.0.q",), True, None, (2,), *"abcd")
    conversion = Conversion(model, "Converter", "ZETA", None, False, True)
    assert kinds(by_name_map(conversion, "why", seen)) == [
        ("unmapped", "layers.0.q"), ("unmapped", "layers.0.k"),
    ]  # it was collected of another conversion  # fmt: skip
    seen._model = lambda: model
    found = by_name_map(conversion, "why", seen)
    assert kinds(found) == [("unmapped", "layers.0.k")] and "1, it was seen" in found.why
    assert [each.name for each in found.written] == ["blk.0.q"]


def test_tensors_alone() -> None:
    class Faulty(Converter):
        def set_vocab(self) -> None:
            raise RuntimeError("no tokenizer")

    model = Faulty(["layers.0.odd", "layers.0.q"])
    conversion = Conversion(model, "Faulty", "ZETA", None, False, True)
    frames = [(sys._getframe(), {"self": None, "args": SimpleNamespace(vocab_only=True)})]
    assert kinds(dry_run(conversion, frames)) == [("unmapped", "layers.0.odd"), ("tokenizer", "")]
    found = dry_run(conversion, frames, only_tensors=True)
    assert kinds(found) == [("unmapped", "layers.0.odd")] and not found.metadata
    assert found.only_vocabulary and [each.name for each in found.tensors] == ["blk.0.q"]


def test_hostile_values() -> None:
    class Hostile(Converter):
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

        def __repr__(self) -> str:
            raise RuntimeError

        def set_vocab(self) -> None:
            class Silent(Exception):
                def __str__(self) -> str:
                    raise RuntimeError

            raise Silent

    assert [miss.kind for miss in run(Hostile(["a\x1b[31m"])).misses] == ["tokenizer"]
