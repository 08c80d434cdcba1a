"""`break-tensor` and `b @GLOB` in a converter of our own, built as llama.cpp's are. No torch."""

import re
from pathlib import Path

import pytest

CONVERTER = """\
import sys

class GGUFWriter:
    def __init__(self):
        self.tensors = [{}]
    def add_tensor(self, name, tensor):
        self.tensors[-1][name] = tensor

class TensorNameMap:
    def __init__(self):
        self.mapping = {"tok": (0, "token_embd")}
        for n in range(3):
            self.mapping[f"h.{n}.q"] = (1, f"blk.{n}.attn_q")
            self.mapping[f"h.{n}.experts"] = (2, f"blk.{n}.ffn_exps")

class Model:
    def __init__(self, dir_model):
        self.dir_model = dir_model
        self.hparams = {}
        names = ["tok.weight", "h.0.rotary"]
        names += [f"h.{n}.{k}" for n in range(3) for k in ("q.weight", "e.0.weight", "e.1.weight")]
        self.model_tensors = {name: (lambda: [1.0]) for name in names}
        self.gguf_writer = GGUFWriter()
        self.tensor_map = TensorNameMap()
        self._experts = []
    def map_tensor_name(self, name):
        return self.tensor_map.mapping[name.removesuffix(".weight")][1] + ".weight"
    def modify_tensors(self, data_torch, name, bid):
        return [(self.map_tensor_name(name), data_torch)]
    def generate_extra_tensors(self):
        self.gguf_writer.add_tensor("rope_freqs.weight", [0.5])
        return ()
    def prepare_tensors(self):
        self.generate_extra_tensors()
        for name, gen in self.model_tensors.items():
            if name.endswith("rotary"):
                continue
            data_torch = gen()
            for new_name, data_torch in self.modify_tensors(data_torch, name, None):
                data = list(data_torch)
                self.gguf_writer.add_tensor(new_name, data)

class Stacking(Model):
    model_arch = "X"
    def prepare_tensors(self):
        super().prepare_tensors()
    def modify_tensors(self, data_torch, name, bid):
        if ".e." in name:
            self._experts.append(data_torch)
            if name.endswith("1.weight"):
                yield from super().modify_tensors(self._experts, name[:4] + "experts.weight", bid)
            return
        yield from super().modify_tensors(data_torch, name, bid)

model = Stacking(".")
model.prepare_tensors()
if "twice" in sys.argv:
    Stacking(".").prepare_tensors()
print("wrote", len(model.gguf_writer.tensors[-1]))
"""


@pytest.fixture
def convert(modpdb_run, tmp_path: Path):
    """What modpdb prints to the commands, and what it says on standard error at the end."""
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text(CONVERTER)

    def run(typed: str, *arguments: str) -> tuple[str, str]:
        done = modpdb_run(["--stop", "tensors", script, *arguments], typed)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("wrote 8\n"), done.stdout
        said = "".join(line for line in done.stderr.splitlines(True) if "stage" not in line)
        return done.stdout, said

    return run


def stops(said: str) -> list[str]:
    return re.findall(r"^tensor (.*)$", said, re.MULTILINE)


def test_checkpoint_names_stop_at_the_outermost_modify_once_each(convert) -> None:
    said, end = convert("b @h.*.q\nc\np name, data_torch\nw\nc\nc\nc\n")
    assert "Breakpoint 1 at @h.*.q: 3 checkpoint tensors\n    h.{0…2}.q.weight\n" in said
    assert stops(said) == [f"h.{n}.q.weight is about to be renamed and reshaped" for n in range(3)]
    assert "(ModPdb) ('h.0.q.weight', [1.0])\n" in said
    assert said.count("modify_tensors()\n") == 4 and end == ""  # three stops, one line of `w`


def test_gguf_names_stop_where_they_are_written(convert) -> None:
    said, end = convert("b @blk.1.*\nc\np name, new_name, data_torch\nc\np name, new_name\nc\n")
    assert (
        "Breakpoint 1 at @blk.1.*: 1 GGUF tensor (predicted)\n"
        "    blk.1.attn_q.weight  from h.1.q.weight\n"
        "    not predicted, but possible:  blk.1.ffn_exps\n"
    ) in said
    assert said.count("-> self.gguf_writer.add_tensor(new_name, data)\n") == 2
    assert "('h.1.q.weight', 'blk.1.attn_q.weight', [1.0])\n" in said
    assert "('h.1.e.1.weight', 'blk.1.ffn_exps.weight')\n" in said
    assert stops(said)[1] == "blk.1.ffn_exps.weight is about to be written" and end == ""


def test_what_is_written_elsewhere_stops_in_the_writer(convert) -> None:
    said, _ = convert("b @rope*\nc\np name, tensor\nc\n")
    assert "Breakpoint 1 at @rope*: no tensor of that name is known\n" in said
    assert stops(said) == ["rope_freqs.weight is about to be written"]
    assert "('rope_freqs.weight', [0.5])\n" in said and "add_tensor()\n" in said


def test_pending_until_the_checkpoint_is_known(modpdb_run, convert, tmp_path: Path) -> None:
    script = tmp_path / "convert_hf_to_gguf.py"
    done = modpdb_run([script], "b @blk.0.attn_q\nb\nc\nc\nc\n")
    assert "Breakpoint 1 pending: the checkpoint is not known yet\n" in done.stdout
    assert "@blk.0.attn_q  pending: the checkpoint is not known yet\n" in done.stdout
    known = done.stdout.index("Breakpoint 1 at @blk.0.attn_q: 1 GGUF tensor (predicted)\n")
    assert known < done.stdout.index("\nstage tensors:")
    assert done.stdout.count("Breakpoint 1 at") == 1  # prepare_tensors calls super()'s
    assert len(stops(done.stdout)) == 1


def test_none_says_the_nearest(convert) -> None:
    said, end = convert("b @blk.0.atn_q.weight\nc\n")
    assert "at @blk.0.atn_q.weight: no tensor of that name is known\n    near: blk.0.attn_q" in said
    assert (
        end
        == "modpdb: breakpoint 1 at @blk.0.atn_q.weight: no tensor of that name came after it was set\n"
    )


def test_what_never_came_is_said_at_the_end(modpdb_run, convert, tmp_path: Path) -> None:
    script = tmp_path / "convert_hf_to_gguf.py"
    done = modpdb_run(["-c", "b @h.0.*", script], "c\n" + "c\n" * 5)
    assert (
        "modpdb: breakpoint 1 at @h.0.*: 1 of 4 tensors never came, such as h.0.rotary\n"
        in done.stderr
    )


def test_pdbs_commands_work_on_it(convert) -> None:
    typed = (
        "tbreak @h.0.q\nb @h.*.q, '1' in name\nb @token_embd\nb @blk.*.attn_q\nignore 4 2\n"
        "commands 3\nsilent\np 'commands ran'\nend\ndisable 3\nenable 3\nc\nc\nc\nb\nc\nc\n"
    )
    said, _ = convert(typed)
    assert stops(said) == [
        "h.0.q.weight is about to be renamed and reshaped",
        "h.1.q.weight is about to be renamed and reshaped",
        "blk.2.attn_q.weight is about to be written",
    ]
    assert said.count("'commands ran'\n") == 1
    assert "Deleted breakpoint 1 at @h.0.q" in said
    assert (
        "\tstop only if '1' in name\n" in said
        and "@blk.*.attn_q  3 GGUF tensors (predicted)" in said
    )


def test_break_tensor_is_the_same(convert) -> None:
    said, _ = convert('break-tensor h.1.q, "q" in name\nc\nclear 1\nc\n')
    assert len(stops(said)) == 1 and "\nDeleted" not in said.partition("clear")[0]


def test_a_second_conversion_meets_them_again(convert) -> None:
    said, end = convert("b @tok\nc\nc\nc\nc\n", "twice")
    assert stops(said) == ["tok.weight is about to be renamed and reshaped"] * 2 and end == ""


def test_two_breakpoints_at_one_stop_say_both(convert) -> None:
    said, _ = convert("b @tok\nb @to*\nc\nc\nc\n")
    assert stops(said)[:2] == ["tok.weight is about to be renamed and reshaped"] * 2


def test_bad_input_is_one_sentence(modpdb_run, convert, tmp_path: Path) -> None:
    said, _ = convert("b @\nbreak-tensor\nb @tok, 1 +\nc\n")
    assert re.findall(r"\*\*\* (.*)", said) == [
        "@ needs a name or glob of tensors after it: b @GLOB[, CONDITION]",
        "break-tensor needs a name or glob: break-tensor GLOB[, CONDITION]",
        "condition '1 +': invalid syntax",
    ]
    script = tmp_path / "convert_hf_to_gguf.py"
    done = modpdb_run(["--no-preset", script], "break-tensor tok\nc\n")
    assert "*** where the script handles tensors is not known: no preset is on\n" in done.stdout


def test_a_failing_preset_does_not_reach_the_script(modpdb_run, convert, tmp_path: Path) -> None:
    preset = tmp_path / "home" / "modpdb" / "presets" / "mine.toml"
    preset.parent.mkdir(parents=True)
    preset.write_text(
        'name = "mine"\nscripts = ["convert_hf*"]\ndefault = []\n'
        '[tensors.t]\nat = ["*.modify_tensors"]\ntensor = "1 / 0"\nside = "s"\nsays = "x"\n'
    )
    done = modpdb_run(
        [tmp_path / "convert_hf_to_gguf.py"],
        "b @tok\nc\n",
        env={"XDG_CONFIG_HOME": str(tmp_path / "home")},
    )
    assert "Breakpoint 1 at @tok, where it can be seen (help break-tensor)\n" in done.stdout
    assert done.stdout.endswith("wrote 8\n") and done.returncode == 0
    assert (
        done.stderr
        == "modpdb: breakpoint 1 at @tok: no tensor of that name came after it was set\n"
    )
