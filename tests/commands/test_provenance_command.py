"""`provenance` without torch: what it says where little is known, and objects that are hostile."""

from pathlib import Path

from modpdb.presets import preset_named

HOSTILE = """\
import sys

class Hostile:
    def __getattribute__(self, name):
        print("NOISE", name)
        raise SystemExit(name)
    __eq__ = __hash__ = __len__ = __bool__ = __repr__ = __str__ = __index__ = __iter__ = None

class GGUFWriter:
    def __init__(self):
        self.kv_data, self.tensors, self.state = [{}], [{}], None
    def add_tensor(self, name, tensor, raw_shape=None, raw_dtype=None):
        self.tensors[0][str(id(name)) if type(name) is Hostile else name] = tensor

class Model:
    model_arch = None
    def __init__(self):
        self.gguf_writer = GGUFWriter()
        self.tensor_map, self.hparams, self.dir_model = Hostile(), {}, "."
        self.model_tensors = {"a": lambda data=Hostile(): data, "\\x1b[31m[b]": Hostile()}
    def modify_tensors(self, data_torch, name, bid):
        yield name, data_torch
    def prepare_tensors(self):
        for name in self.model_tensors:
            for new, data in self.modify_tensors(Hostile(), name, None):
                self.gguf_writer.add_tensor("new." + new, data, Hostile(), Hostile())
        self.gguf_writer.add_tensor(Hostile(), Hostile())
        for bid in self.modify_tensors(None, Hostile(), None):
            pass
        self.end()
    def end(self):
        print("done")

Model().prepare_tensors()
"""


def test_hostile_objects_are_not_asked(modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text(HOSTILE)
    typed = "tbreak Model.end\nc\nc\nprov\nprov new.a\nprov nothing\nckpt\nc\n"
    done = modpdb_run([script], typed)
    assert done.returncode == 0, done.stderr
    assert "NOISE" not in done.stdout + done.stderr and "incomplete" not in done.stdout
    assert "2 tensors written from 2 of the checkpoint · 2 inferred" in done.stdout
    assert "a (inferred, operations not known) → new.a ? []" in " ".join(done.stdout.split())
    assert "converter   convert_hf_to_gguf.py:21 Model.modify_tensors" in done.stdout
    assert "\\x1b[31m[b]" in done.stdout and "\x1b[31m" not in done.stdout
    assert "'nothing' is no tensor of the checkpoint or the file here" in done.stdout
    assert done.stdout.count("done\n") == 1


def test_what_goes_wrong_does_not_reach_the_script(modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text(HOSTILE)
    rc = tmp_path / "rc"
    rc.write_text(
        "!import modpdb.probes.provenance as probe\n"
        "!probe.history = probe.place = lambda *given: 1 / 0\n"
    )
    done = modpdb_run(["--rc", rc, script], "tbreak Model.end\nc\nc\nprov\nckpt\nc\n")
    assert done.returncode == 0 and "done\n" in done.stdout, done.stderr
    assert (
        "incomplete, as collecting it failed: modifies Model.modify_tensors: ZeroDivisionError"
    ) in " ".join(done.stdout.split())


def test_nothing_to_speak_of(modpdb_run, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("x = 1\n")
    done = modpdb_run([script], "prov\nprov a b\nc\n")
    assert "no conversion here, and no preset is on that collects" in done.stdout
    assert "provenance takes one GLOB, not 2: a b" in done.stdout


def test_the_presets_expressions_give_names() -> None:
    provenance = preset_named("llama.cpp").provenance
    assert provenance is not None
    sources = {each.name: each.names for each in provenance.sources}
    given = {"name": "l.q.weight", "written": "blk.0.q.input_scale"}
    assert "l.q.input_scale" in eval(sources["nvfp4"], given)
    given["written"] = "blk.0.q.scale"
    assert "l.q.weight_scale_2" in eval(sources["nvfp4"], given)
    given["written"] = "blk.0.q.weight"
    assert "l.q.weight_packed" in eval(sources["nvfp4"], given)
    experts = {1: ("b", "b_scale"), 0: ("a", "a_scale")}
    assert eval(sources["mxfp4-layer"], {"experts": experts}) == ["a", "a_scale", "b", "b_scale"]
