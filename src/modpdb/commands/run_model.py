"""`run-model`: the original, run once with breakpoints at work."""

from __future__ import annotations

import ast
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import RUN_MODEL_BINDS, frames_outwards, typed
from modpdb.probes._static import instance_dict, is_a

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.nested import InnerPdb
    from modpdb.programs.model import Build

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_BUILDING = ("--from", "--dtype", "--device", "--trust-remote-code", "--pickle")


@dataclass(slots=True)
class _Run:
    """What there is of a run, as far as it came; filled in as it goes."""

    build: Build | None  # None: of a model that no folder is known of
    prompt: str | list[int]
    model: Any = None
    tokenizer: Any = None
    inputs: Any = None
    outputs: Any = None
    seconds: float | None = None
    is_new: bool = field(default=False)


@command(
    "run-model",
    options={
        "--from": "DIR",
        "--dtype": "f32|f16|bf16",
        "--device": "DEVICE",
        "--trust-remote-code": "",
        "--pickle": "",
        "--force": "",
    },
)
def run_model(dbg: ModPdb, arguments: Arguments) -> None:
    """run-model [OPTIONS] [PROMPT | IDS]

    Run the original once, with breakpoints at work, and show which tokens come next.

    In a conversion: builds the transformers model of the checkpoint being converted, with its
    weights, and keeps it as `_model` for as long as this frame lives, so that it is there for
    the next time. Where the frames hold a transformers model, that one is run. PROMPT is text,
    IDS are token ids: 1 2 3, [1, 2, 3]; either may be a variable that holds it. Afterwards
    `_inputs` and `_out` are what went in and came out.

    Breakpoints stop in the model, at the prompt ((ModPdb)): c runs on, q gives the run up and
    leads back here, as in pdb's `debug`. The script's random numbers and defaults stay as they
    are.

    --from DIR           the checkpoint in DIR, instead of what the frames hold
    --dtype TYPE         f32, f16 or bf16; without it as the weights are stored
    --device DEVICE      cpu, cuda:0, …
    --trust-remote-code  run the code that the checkpoint brings: never done unless asked
    --pickle             read pytorch_model*.bin, with torch's weights_only unpickler
    --force              load a model that is larger than what memory is free
    """
    from modpdb.nested import Left, run_from_prompt
    from modpdb.probes.model_run import describe_run
    from modpdb.programs.model import DEFAULT_PROMPT
    from modpdb.views.model_run import model_run

    run = _chosen(dbg, arguments)
    try:
        run_from_prompt(dbg, lambda inner: _go(dbg, inner, run))
        described = describe_run(
            run.model,
            run.tokenizer,
            run.inputs,
            run.outputs,
            run.prompt,
            default=DEFAULT_PROMPT,
            seconds=run.seconds,
        )
        dbg.show(model_run(described))
    except Left as left:
        if left.__cause__ is None:  # else its exception was said
            dbg.message("the model's run was given up")
    finally:  # a model that took minutes to load is kept whatever became of its run
        new = _bind(dbg, run)
        if new:
            dbg.message(f"bound in this frame: {', '.join(new)}")


# -- which model, which prompt -------------------------------------------------------------------


def _chosen(dbg: ModPdb, arguments: Arguments) -> _Run:
    """Raises UsageError where there is neither a model nor a checkpoint."""
    from modpdb.programs.model import DTYPES

    prompt = _prompt(dbg, arguments.target)
    dtype = arguments.text("--dtype")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"--dtype takes {', '.join(DTYPES)}, not {dtype!r}")
    anew = any(each in arguments.options for each in _BUILDING)
    held = _held_model(dbg)
    folder = _folder(dbg, arguments, held, anew)
    if folder is None and (anew or held is None):
        raise UsageError(
            "no checkpoint is being converted here and no transformers model is held by the "
            "frames; run-model --from DIR takes the checkpoint in DIR"
            if held is None
            else "the folder of the model that is held is not known, to build it anew; "
            "run-model --from DIR takes the checkpoint in DIR"
        )
    build = None if folder is None else _build(folder, dtype, arguments)
    if anew or held is None:
        return _Run(build, prompt)
    return _Run(build, prompt, held, _held_tokenizer(dbg))


def _build(folder: Path, dtype: str | None, arguments: Arguments) -> Build:
    """Raises UsageError where *folder* holds no checkpoint."""
    from modpdb.programs.model import Build, ModelError, check_folder

    try:
        check_folder(folder)
    except ModelError as error:
        raise UsageError(str(error)) from None
    return Build(
        folder,
        dtype,
        arguments.text("--device") or "cpu",
        "--trust-remote-code" in arguments.options,
        "--pickle" in arguments.options,
        "--force" in arguments.options,
    )


def _folder(dbg: ModPdb, arguments: Arguments, held: Any, anew: bool) -> Path | None:
    """The checkpoint's folder: as given, of the conversion, of the model that is held."""
    from modpdb.probes.conversion import find_conversion

    given = arguments.text("--from")
    if given is not None:
        return Path(given).expanduser()
    if anew or held is None:
        conversion = find_conversion([variables for _, variables in frames_outwards(dbg)])
        if conversion is not None and conversion.dir_model is not None:
            return conversion.dir_model
    name = instance_dict(instance_dict(held).get("config")).get("_name_or_path")
    if type(name) is not str or not (Path(name) / "config.json").is_file():
        return None  # of a model of the hub, or none that was loaded
    return Path(name)


def _prompt(dbg: ModPdb, text: str) -> str | list[int]:
    """Text or token ids: as typed, or held by a variable. A literal in quotes is always text."""
    from modpdb.programs.model import prompt_in

    if text[:1] in ("'", '"'):
        try:
            return str(ast.literal_eval(text))
        except (SyntaxError, ValueError):
            return text
    if _NAME.fullmatch(text):
        value = typed(dbg, text).value
        if is_a(value, str):
            return str(value)
        ids = _ids(value)
        if ids is not None:
            return ids
    return prompt_in(text)


def _ids(value: Any) -> list[int] | None:
    """The token ids that a list or tensor holds, [tokens] or [1, tokens]; else None."""
    from modpdb.probes._torch import torch_or_none

    torch = torch_or_none()
    if torch is not None and is_a(value, torch.Tensor):
        value = value.tolist()
    if type(value) is list and len(value) == 1 and type(value[0]) is list:
        value = value[0]
    if type(value) in (list, tuple) and value and all(type(each) is int for each in value):
        return list(value)
    return None


def _held_model(dbg: ModPdb) -> Any:
    """The transformers model that the frames hold, the nearest that is no part of another."""
    from modpdb.probes.module_state import named_modules

    found = list(_held(dbg, "transformers.modeling_utils", "PreTrainedModel"))
    inside = {
        id(module) for each in found for path, module in named_modules(each) if module is not each
    }
    return next((each for each in found if id(each) not in inside), None)


def _held_tokenizer(dbg: ModPdb) -> Any:
    where = "transformers.tokenization_utils_base"
    return next(_held(dbg, where, "PreTrainedTokenizerBase"), None)


def _held(dbg: ModPdb, module: str, name: str) -> Iterator[Any]:
    """What the frames hold of that class, innermost first; nothing is imported for it."""
    cls = getattr(sys.modules.get(module), name, None)
    if cls is None:
        return
    for _, variables in frames_outwards(dbg):
        held_by_self = instance_dict(variables.get("self")).values()
        yield from (each for each in (*variables.values(), *held_by_self) if is_a(each, cls))


# -- running it ----------------------------------------------------------------------------------


def _go(dbg: ModPdb, inner: InnerPdb, run: _Run) -> None:
    """Build what is missing, and run the model once. Raises UsageError."""
    from modpdb.programs.model import ModelError

    if "transformers" not in sys.modules:
        dbg.message("importing transformers …")
    import torch

    from modpdb.probes.random_state import kept_state

    try:
        # In the inference_mode of a conversion, what is built here could have no gradient later.
        with kept_state(), torch.inference_mode(False):
            _steps(dbg, inner, run)
    except ModelError as error:
        raise UsageError(str(error)) from error


def _steps(dbg: ModPdb, inner: InnerPdb, run: _Run) -> None:
    from modpdb.programs import model as program

    if run.model is None and run.build is not None:
        run.model = program.load_model(run.build, program.read_config(run.build))
        run.is_new = True
    ids = run.prompt
    if run.tokenizer is not None:
        ids = run.tokenizer(ids).input_ids if isinstance(ids, str) else ids
    elif run.build is not None:
        run.tokenizer, ids = program.tokenize(run.build, ids)
    elif isinstance(ids, str):
        raise UsageError("no tokenizer is held by the frames; give token ids: run-model 1 2 3")
    run.inputs = program.inputs_of(run.model, ids)
    began, stopped = time.perf_counter(), inner.stopped
    inner.stopped = False
    run.outputs = program.forward(run.model, run.inputs)
    if not inner.stopped:
        run.seconds = time.perf_counter() - began
    inner.stopped |= stopped


def _bind(dbg: ModPdb, run: _Run) -> list[str]:
    """Give the frame what there is of the run; the names that it did not have."""
    values = dict(
        zip(RUN_MODEL_BINDS, (run.model, run.tokenizer, run.inputs, run.outputs), strict=True)
    )
    if not run.is_new:
        del values["_model"], values["_tokenizer"]
    bound = {name: value for name, value in values.items() if value is not None}
    new = [name for name in bound if name not in dbg.curframe_locals]
    dbg.curframe_locals.update(bound)
    return new
