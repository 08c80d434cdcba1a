"""explain where no conversion runs: what it must not say, run or raise."""

import sys
from types import FrameType

import pytest
from at_prompt import Prompt


class Hostile(ValueError):
    """An exception of which everything that can be asked raises or lies."""

    def __str__(self) -> str:
        raise RuntimeError("asked")

    __repr__ = __str__

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")

    __hash__ = None  # type: ignore[assignment]


class Quiet:
    """A variable that must not be looked at by its own code."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __len__(self) -> int:
        raise RuntimeError("len")


def caught_prompt(error: BaseException) -> Prompt:
    tb = BaseException.__traceback__.__get__(error)
    while tb.tb_next is not None:
        tb = tb.tb_next
    prompt = Prompt(tb.tb_frame)
    prompt.dbg.caught = error
    return prompt


def raised_by(function: str, error: BaseException, **variables: object) -> BaseException:
    """*error* out of a function called *function* with these variables."""
    names = ", ".join(("error", *variables))
    code: dict[str, object] = {}
    exec(f"def {function}({names}):\n    raise error", code)
    try:
        code[function](error, **variables)  # type: ignore[operator]
    except BaseException as raised:
        return raised
    raise AssertionError


def unasked(prompt: Prompt) -> str:
    import io

    from modpdb.commands.explain import explain_unasked

    prompt.dbg.stdout = io.StringIO()
    explain_unasked(prompt.dbg, prompt.dbg.caught)
    return prompt.dbg.stdout.getvalue()


def here() -> FrameType:
    return sys._getframe()


def test_without_an_exception() -> None:
    said = Prompt(here())("explain")
    assert said.startswith("*** no exception at hand")


def test_it_takes_no_argument() -> None:
    assert "takes no argument, not 'now'" in Prompt(here())("explain now")


def test_at_a_stop_in_an_except() -> None:
    try:
        raise KeyError("x")
    except KeyError:
        said = Prompt(here())("explain")
    assert said.startswith("*** modpdb knows nothing of this KeyError")


@pytest.mark.parametrize(
    "name, error",
    [
        ("map_tensor_name", ValueError("Can not map tensor 'x'")),
        ("get_vocab_base_pre", NotImplementedError("BPE pre-tokenizer was not recognized")),
        ("main", SystemExit(1)),
        ("get_tensors", SystemExit(1)),
        ("get_tensors", AssertionError()),
        ("reshape", NotImplementedError()),
        ("set_vocab", FileNotFoundError(2, "No such file or directory", "tokenizer.model")),
        ("find_hparam", KeyError("could not find any of: ['n_layers']")),
        ("set_gguf_parameters", KeyError("image_mean")),
        ("add_tensor_info", ValueError("Duplicated tensor name 'x'")),
        ("index_tensors", ValueError("Missing or incomplete model files: ['x']")),
        ("prepare_tensors", ValueError("Unprocessed experts: ['x']")),
        ("write_kv_data_to_file", ValueError("x")),
        ("write_tensors_to_file", AssertionError()),
    ],
)
def test_a_name_and_a_message_alone_are_no_conversion(name: str, error: BaseException) -> None:
    """Automatic explain is silent, whatever the variables are."""
    quiet = Quiet()
    caught = raised_by(name, error, self=quiet, name=quiet, keys=quiet, key=quiet, hparams=quiet)
    prompt = caught_prompt(caught)
    assert unasked(prompt) == ""
    assert prompt("explain").startswith("*** modpdb knows nothing of this")


def test_a_hostile_exception() -> None:
    prompt = caught_prompt(raised_by("map_tensor_name", Hostile("Can not map tensor 'x'")))
    assert unasked(prompt) == ""
    assert prompt("explain") == (
        "*** modpdb knows nothing of this Hostile: it is none of the failures of conversions that "
        "it can explain"
    )


def test_it_costs_a_script_without_torch_no_import() -> None:
    before = set(sys.modules)
    unasked(caught_prompt(raised_by("f", ValueError("x"))))
    assert not {"torch", "transformers", "numpy"} & (set(sys.modules) - before)
