"""What was probably meant, out of all that is loaded."""

import sys
import time
from types import CodeType

import pytest

from modpdb.breakpoints import near_misses as near_misses_module
from modpdb.breakpoints.locations import Spec
from modpdb.breakpoints.near_misses import near_misses, nearest_names

NAMES = {
    "conversion.base": [
        *("TextModel.set_vocab", "TextModel.modify_tensors", "ModelBase.load_hparams", "main"),
        *("get_model_class", "outer.<locals>.inner", "<lambda>"),
    ],
    "conversion.gemma": ["Gemma3Model.modify_tensors", "Gemma2Model.modify_tensors"],
    "conversion.llama": ["LlamaModel.modify_tensors", "LlamaModel.permute"],
    "modpdb.early": ["run_early"],
    "modpdb": ["run_early"],
}


def code(qualname: str) -> CodeType:
    name = qualname.rpartition(".")[2]
    return sys._getframe().f_code.replace(co_name=name, co_qualname=qualname)


FUNCTIONS = [(module, code(name)) for module, names in NAMES.items() for name in names]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Gemma3Modle.modify_tensors", ["Gemma3Model.modify_tensors"]),
        ("gemma3model.modify_tensors", ["Gemma3Model.modify_tensors"]),
        ("Gemma3Model.modify_tensor", ["Gemma3Model.modify_tensors"]),
        ("conversion.bse:TextModel.set_vocab", ["conversion.base:TextModel.set_vocab"]),
        ("conversion.base:TextModel.set_vocb", ["conversion.base:TextModel.set_vocab"]),
        ("base.TextModle.set_vocab", ["base.TextModel.set_vocab"]),
        ("mian", ["main"]),
        ("iner", ["inner"]),
        ("permute", []),  # a bare name is no method's
        ("modify_tensor", []),
        ("run_erly", []),  # modpdb's own
        ("*.modify_tensor", ["*.modify_tensors"]),
        ("Text*.set_vocb", ["Text*.set_vocab"]),
        ("Llama*.set_vocb", []),  # would match nothing either
        ("nothing.like.this", []),
        ("*.mod*", []),
        ("TextModel.modify_tensors+4", ["TextModel.modify_tensors"]),
    ],
)
def test_near_misses(typed: str, meant: list[str]) -> None:
    assert near_misses(Spec.parse(typed), FUNCTIONS) == meant


class NearMissBase:
    def set_gguf_parameters(self) -> None: ...


class NearMissSample(NearMissBase):
    pass


def test_inherited_methods_count() -> None:
    assert near_misses(Spec.parse("NearMissSampel.set_gguf_parameters"), []) == [
        "NearMissSample.set_gguf_parameters"
    ]
    assert near_misses(Spec.parse("NearMissSample.set_gguf_paramters"), []) == [
        "NearMissSample.set_gguf_parameters"
    ]


def test_no_code_of_a_class_is_run() -> None:
    class Meta(type):
        def __getattribute__(cls, name: str) -> object:
            raise SystemExit(name)

    class NearMissHostile(metaclass=Meta):
        pass

    assert near_misses(Spec.parse("NearMissHostil.nothing"), []) == []
    assert type(NearMissHostile) is Meta


def test_names_of_files() -> None:
    assert nearest_names("convesion/base.py", ["conversion/base.py", "setup.py"]) == [
        "conversion/base.py"
    ]


def test_a_hundred_thousand_functions_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_misses_module, "loaded_classes", lambda: iter(()))
    words = ("forward", "modify", "get", "tensors", "init", "weights", "config", "attention")
    functions = [
        (f"package.module{n % 500}", code(f"Model{n % 9000}.{a}_{b}_{n % 40}"))
        for n in range(1600)
        for a in words
        for b in words
    ]
    assert len(functions) > 100_000
    begin = time.perf_counter()
    meant = near_misses(Spec.parse("Modle77.modify_tensors_37"), functions)
    assert time.perf_counter() - begin < 1  # measured: 0.1 s; machines of CI are slow
    assert meant == ["Model77.modify_tensors_37"]
