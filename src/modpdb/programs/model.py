"""A checkpoint's model, built and run once: what `modpdb model MODEL_DIR [PROMPT]` debugs.

An ordinary transformers script of small steps, each a stage to stop at. `run-model` takes the
same steps from the prompt. Knows no debugger.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modpdb.probes.checkpoints import TensorEntry

# torch and transformers are imported where they are used: `run-model` takes from here what it
# needs in a script that has imported neither.

DEFAULT_PROMPT = "Hello, my name is"  # that of llama.cpp's run-org-model.py, to compare with it
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
PROGRESS_FROM = 1 << 30  # bytes: less is loaded in about a second
_TOKENIZER_FILE = re.compile(r"token|vocab|merges|spiece|spm|\.model$", re.IGNORECASE)
_AUTO = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText")


class ModelError(Exception):
    """Why a checkpoint's model cannot be built or run, in one sentence."""


@dataclass(frozen=True, slots=True)
class Build:
    """How to build the model of *folder*. *dtype* is short (bf16); None: as it is stored.

    *trust*: run the code that comes with the checkpoint. *pickle*: read pytorch_model*.bin, with
    torch's weights_only unpickler. *force*: even if memory is short.
    """

    folder: Path
    dtype: str | None = None
    device: str = "cpu"
    trust: bool = False
    pickle: bool = False
    force: bool = False


# -- the steps -----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    build = build_options(options)
    try:
        config = read_config(build)
        model = load_model(build, config)
        tokenizer, ids = tokenize(build, options.prompt)
        inputs = inputs_of(model, ids)
        outputs = forward(model, inputs)
    except ModelError as error:
        sys.exit(f"modpdb model: {error}")
    report(model, tokenizer, inputs, outputs, options.prompt)
    done(model, tokenizer, inputs, outputs)


def read_config(build: Build) -> Any:
    """The checkpoint's transformers config. Raises ModelError."""
    from transformers import AutoConfig

    with _in_one_sentence(f"the config of {build.folder}"):
        return AutoConfig.from_pretrained(
            build.folder, trust_remote_code=build.trust, local_files_only=True
        )


def load_model(build: Build, config: Any) -> Any:
    """The model with its weights, in evaluation mode.

    Raises ModelError, also where it is larger than the memory that is free.
    """
    import torch

    _check_device(build.device)
    _check_memory(build)
    maker = _class_for(build, config)
    dtype = getattr(torch, DTYPES[build.dtype]) if build.dtype else "auto"
    # Not inside of a script's inference_mode: no hook or gradient could be had of such weights.
    with (
        _in_one_sentence(f"the weights of {build.folder}"),
        torch.inference_mode(False),
        torch.device(build.device),
        _progress(_stored_bytes(build) >= PROGRESS_FROM),
    ):
        model = maker.from_pretrained(
            build.folder,
            config=config,
            dtype=dtype,
            use_safetensors=None if build.pickle else True,
            weights_only=True,
            local_files_only=True,
            **({"trust_remote_code": True} if build.trust else {}),
        )
    return model.to(build.device).eval()


def read_tokenizer(build: Build) -> Any:
    """The checkpoint's tokenizer. Raises ModelError."""
    from transformers import AutoTokenizer

    if not any(_TOKENIZER_FILE.search(file.name) for file in build.folder.iterdir()):
        # For some models transformers would make one without a vocabulary.
        raise ModelError(f"no file of a tokenizer in {build.folder}; give token ids: 1 2 3")
    with _in_one_sentence(f"the tokenizer of {build.folder}"):
        return AutoTokenizer.from_pretrained(
            build.folder, trust_remote_code=build.trust, local_files_only=True
        )


def tokenize(build: Build, prompt: str | list[int]) -> tuple[Any, list[int]]:
    """The tokenizer and the prompt's token ids; where those are given, the tokenizer may be None.

    Raises ModelError.
    """
    if not isinstance(prompt, str):
        with contextlib.suppress(ModelError):
            return read_tokenizer(build), prompt
        return None, prompt
    tokenizer = read_tokenizer(build)
    return tokenizer, tokenizer(prompt).input_ids


def inputs_of(model: Any, ids: list[int]) -> dict[str, Any]:
    """What to call the model with: `input_ids` [1, tokens], int64; for an encoder–decoder
    `decoder_input_ids` [1, 1] too. Raises ModelError for what the model does not take."""
    import torch

    taken = model.main_input_name
    if taken != "input_ids":
        raise ModelError(f"{type(model).__name__} takes {taken}, which cannot be made from text")
    if not ids:
        raise ModelError("the prompt has no tokens")
    rows = model.get_input_embeddings().weight.shape[0]
    for each in ids:
        if not 0 <= each < rows:
            raise ModelError(f"token id {each} is none of the embedding's {rows:,}")
    inputs = {"input_ids": torch.tensor([ids], device=model.device)}
    if model.config.is_encoder_decoder:
        start = model.generation_config.decoder_start_token_id
        if start is None:
            raise ModelError("the config has no decoder_start_token_id for the decoder to begin at")
        inputs["decoder_input_ids"] = torch.tensor([[start]], device=model.device)
    return inputs


def forward(model: Any, inputs: dict[str, Any]) -> Any:
    """The model's outputs, run once without gradients."""
    import torch

    with torch.no_grad():
        return model(**inputs)


def report(model: Any, tokenizer: Any, inputs: Any, outputs: Any, prompt: str | list[int]) -> None:
    """Prints the tokens, the shape of the logits and the tokens that may come next."""
    from modpdb.probes.model_run import describe_run
    from modpdb.views.console import print_to
    from modpdb.views.model_run import model_run

    run = describe_run(model, tokenizer, inputs, outputs, prompt, default=DEFAULT_PROMPT)
    colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print_to(sys.stdout, [model_run(run)], color=colored)


def done(model: Any, tokenizer: Any, inputs: Any, outputs: Any) -> None:
    """Nothing is left to do: what has come out can be looked at."""
    return


# -- the command line ----------------------------------------------------------------------------


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, its prompt a string or a list of token ids. Exits with 2, after a line
    that says why, where it cannot be understood."""
    parser = argparse.ArgumentParser(
        prog="modpdb model",
        usage="modpdb [MODPDB OPTIONS] model [OPTIONS] MODEL_DIR [PROMPT | IDS]",
        description="Build a checkpoint's transformers model and run it once, under modpdb.",
        epilog="It stops before the forward pass (stage forward), where breakpoints can be set; "
        "c runs it, and stops again when its outputs can be looked at (stage done). "
        "A script called model is ./model.",
    )
    parser.add_argument("folder", metavar="MODEL_DIR", type=Path, help="a folder with config.json")
    parser.add_argument(
        "prompt",
        metavar="PROMPT",
        nargs="*",
        help=f"text, or token ids: 1 2 3, or [1, 2, 3] ({DEFAULT_PROMPT!r})",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (as they are stored)")
    parser.add_argument("--device", default="cpu", help="where to put them (%(default)s)")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run the code that the checkpoint brings"
    )
    parser.add_argument(
        "--pickle",
        action="store_true",
        help="read pytorch_model*.bin too, with torch's weights_only unpickler",
    )
    parser.add_argument("--force", action="store_true", help="even if memory is short")
    options = parser.parse_intermixed_args(arguments)
    try:
        check_folder(options.folder)
        options.prompt = prompt_in(" ".join(options.prompt))
    except ModelError as error:
        parser.error(str(error))
    return options


def build_options(options: argparse.Namespace) -> Build:
    return Build(
        options.folder,
        options.dtype,
        options.device,
        options.trust_remote_code,
        options.pickle,
        options.force,
    )


def check_folder(folder: Path) -> None:
    """Raises ModelError where no model is described in *folder*."""
    if not folder.is_dir():
        raise ModelError(f"{str(folder)!r} is no folder; expected one with a checkpoint's files")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{str(folder)!r} has no config.json, which says what the model is")


def prompt_in(text: str) -> str | list[int]:
    """Token ids, written 1 2 3 or [1, 2, 3]; else the text; the default prompt for none."""
    words = text.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
    if words and all(word.isdecimal() for word in words):
        return [int(word) for word in words]
    return text or DEFAULT_PROMPT


# -- building ------------------------------------------------------------------------------------


def _class_for(build: Build, config: Any) -> Any:
    """What has the `from_pretrained` for this config: the class that wrote the checkpoint if
    transformers has it, else an Auto class. Raises ModelError."""
    import transformers

    brings_code = getattr(config, "auto_map", None) or {}
    auto = [name for name in ("AutoModel", *_AUTO) if name in brings_code]
    if build.trust and auto:
        return getattr(transformers, auto[-1])
    for name in config.architectures or ():
        found = getattr(transformers, str(name), None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    if auto:
        raise ModelError(
            f"{build.folder} brings code of its own for its model; --trust-remote-code runs it"
        )
    for name in _AUTO:
        maker = getattr(transformers, name)
        if type(config) in maker._model_mapping:
            return maker
    return transformers.AutoModel


def _check_device(device: str) -> None:
    """Raises ModelError where there is no such device."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        said = str(error).partition("\n")[0]
        raise ModelError(f"no device {device!r} can be used here: {said}") from None


def _check_memory(build: Build) -> None:
    """Raises ModelError for a model larger than what is free, and for weights that are pickles."""
    from modpdb.probes.checkpoints import CheckpointError, parts_of
    from modpdb.probes.memory import free_memory
    from modpdb.views.text import size

    try:
        parts = parts_of(build.folder)
    except CheckpointError as error:
        raise ModelError(str(error)) from None
    if not parts.safetensors and not build.pickle:
        raise ModelError(
            f"the weights of {build.folder} are a pickle ({parts.files[0]}); "
            "--pickle reads it with torch's weights_only unpickler"
        )
    needed, free = _stored_bytes(build), free_memory(build.device)
    if free is not None and needed > free and not build.force:
        raise ModelError(
            f"the model needs {size(needed)}, and {size(free)} are free on {build.device}; "
            "--force loads it nevertheless"
        )


def _stored_bytes(build: Build) -> int:
    """Bytes of the weights as they will be held; of pickles, those of their files."""
    from modpdb.probes.checkpoints import parts_of, read_checkpoint

    if not parts_of(build.folder).safetensors:
        files = (build.folder / file for file in parts_of(build.folder).files)
        return sum(file.stat().st_size for file in files if file.is_file())
    return sum(_bytes_held(tensor, build.dtype) for tensor in read_checkpoint(build.folder).tensors)


def _bytes_held(tensor: TensorEntry, dtype: str | None) -> int:
    if dtype is None or tensor.shape is None or not (tensor.dtype or "").startswith(("f", "bf")):
        return tensor.nbytes or 0
    return math.prod(tensor.shape) * {"f32": 4, "f16": 2, "bf16": 2}[dtype]


@contextlib.contextmanager
def _progress(shown: bool) -> Iterator[None]:
    """transformers' progress bars only for what takes a while, and at a terminal."""
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    if not (shown and sys.stderr.isatty()):
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _in_one_sentence(what: str) -> Iterator[None]:
    """transformers explains itself in paragraphs, with tracebacks through five of its modules."""
    try:
        yield
    except Exception as error:  # tokenizers raises no other class
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{what} needs code that the checkpoint brings; --trust-remote-code runs it"
            ) from error
        said = textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" …")
        raise ModelError(f"{what} cannot be read: {said}") from error


if __name__ == "__main__":
    main()
