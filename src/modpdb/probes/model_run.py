"""What one run of a language model gave: its tokens, its logits, what may come next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modpdb.probes._static import class_name, instance_dict
from modpdb.probes._torch import undisturbed
from modpdb.probes.tensors import short_dtype

_TOP = 5


@dataclass(frozen=True, slots=True)
class Token:
    """A token by its id; *text* is None where no tokenizer tells it."""

    id: int
    text: str | None


@dataclass(frozen=True, slots=True)
class Next:
    """A token that may come next: softmax of the last position's logits, in float32."""

    token: Token
    probability: float
    logit: float


@dataclass(frozen=True, slots=True)
class ModelRun:
    """A run of a model. *prompt* is None where token ids were given.

    *bad*: NaN and Inf among the logits of the last position, of *width*. *next* is empty where
    the model puts out no next token or its logits are bad. *seconds* None: not measured.
    """

    model: str
    parameters: int
    dtype: str
    device: str
    training: bool
    prompt: str | None
    is_default: bool
    tokens: tuple[Token, ...]
    decoder: tuple[Token, ...]
    output: str  # `logits`, or the first tensor that there is
    shape: tuple[int, ...] | None
    output_dtype: str
    bad: int
    width: int
    next: tuple[Next, ...]
    seconds: float | None


def describe_run(
    model: Any,
    tokenizer: Any,
    inputs: dict[str, Any],
    outputs: Any,
    prompt: str | list[int],
    *,
    default: str,
    seconds: float | None = None,
) -> ModelRun:
    """A run of a transformers model: *inputs* hold `input_ids` [1, tokens] and, of an
    encoder–decoder, `decoder_input_ids`. *tokenizer* may be None."""
    import torch

    name, tensor = _output(outputs)
    bad, width = 0, 0
    following: tuple[Next, ...] = ()
    with undisturbed(torch):
        if name == "logits" and tensor.dim() == 3 and model.can_generate():
            bad, width, following = _next(torch, tensor[0, -1], tokenizer)
        first = next(model.parameters())
        return ModelRun(
            class_name(type(model)),
            sum(each.numel() for each in model.parameters()),
            short_dtype(str(first.dtype)),
            str(first.device),
            model.training,
            prompt if isinstance(prompt, str) else None,
            prompt == default,
            _tokens(tokenizer, inputs["input_ids"][0].tolist()),
            _tokens(tokenizer, inputs["decoder_input_ids"][0].tolist())
            if "decoder_input_ids" in inputs
            else (),
            name,
            None if tensor is None else tuple(tensor.shape),
            "" if tensor is None else short_dtype(str(tensor.dtype)),
            bad,
            width,
            following,
            seconds,
        )


def _output(outputs: Any) -> tuple[str, Any]:
    """The logits, else the first tensor of a ModelOutput or tuple, with its name."""
    import torch

    named = dict(outputs) if isinstance(outputs, dict) else instance_dict(outputs)
    if isinstance(outputs, torch.Tensor):
        named = {"output": outputs}
    elif isinstance(outputs, tuple):
        named = {f"output[{number}]": each for number, each in enumerate(outputs)}
    tensors = {str(name): each for name, each in named.items() if isinstance(each, torch.Tensor)}
    name = "logits" if "logits" in tensors else next(iter(tensors), "")
    return name, tensors.get(name)


def _next(torch: Any, logits: Any, tokenizer: Any) -> tuple[int, int, tuple[Next, ...]]:
    """Of the last position's logits [vocabulary]: how many are NaN or Inf, how many there are,
    and the likeliest tokens."""
    logits = logits.float()
    bad = int((~torch.isfinite(logits)).sum())
    if bad:
        return bad, len(logits), ()
    chances = torch.softmax(logits, dim=-1)
    top = torch.topk(chances, min(_TOP, len(logits)))
    ids = top.indices.tolist()
    tokens = _tokens(tokenizer, ids)
    found = zip(tokens, top.values.tolist(), logits[top.indices].tolist(), strict=True)
    return 0, len(logits), tuple(Next(*each) for each in found)


def _tokens(tokenizer: Any, ids: list[int]) -> tuple[Token, ...]:
    """Each with its piece as the tokenizer writes it (▁ for a blank)."""
    if tokenizer is None:
        return tuple(Token(each, None) for each in ids)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    return tuple(
        Token(each, piece if isinstance(piece, str) else None)
        for each, piece in zip(ids, pieces, strict=True)
    )
