"""What convert_lora_to_gguf.py refuses."""

from __future__ import annotations

from typing import Any

from modpdb.probes._static import class_name
from modpdb.probes.explanations.explanation import (
    Caught,
    Cause,
    Explanation,
    Frame,
    Row,
    Step,
    Table,
    held,
    raised,
)
from modpdb.probes.lazy import is_lazy, shape_and_dtype

_CLASS = "LoraTorchTensor"


def lora(caught: Caught) -> Explanation | None:
    """An operation that A and B do not allow, a tensor that is no half of a pair, lm_head."""
    return _refused(caught) or _unexpected(caught) or _output_ignored(caught) or _half(caught)


def _refused(caught: Caught) -> Explanation | None:
    """An operation of the model's converter on the product B·A that cannot be done on A and B."""
    inside = [frame for frame in caught.frames if frame.qualname.startswith(f"{_CLASS}.")]
    if raised(caught, NotImplementedError) and inside and caught.frames[0] in inside:
        ends: tuple[Frame, ...] = (inside[0], inside[-1])
    elif raised(caught, TypeError, AttributeError) and _CLASS in caught.message:
        ends = ()
    else:
        return None
    calling = next((f for f in caught.frames if f not in inside and "torch/" not in f.file), None)
    operation = _operation(*ends) if ends else caught.message
    name = _tensor_name(caught)
    says = f"{operation} cannot be done on a LoRA tensor: it is kept as two factors, A and B"
    shapes = _factors(ends[0] if ends else calling)
    cause = "the model's converter reshapes this weight in a way that has no form for A and B apart"
    if name:
        cause += f": {name}"
    steps = [
        Step(
            "look at the line that asks for it",
            (f"up {caught.frames.index(calling)}" if calling in caught.frames else "up",),
        ),
        Step(
            "if the adapter may do without this module, leave it out of target_modules, or merge "
            "it into the base model and convert that: model.merge_and_unload()"
        ),
    ]
    where = calling.place if calling is not None else ""
    tables = (Table("the factors", shapes, brief=True),) if shapes else ()
    return Explanation("lora operation", says, (Cause(cause),), tables, tuple(steps), where)


def _operation(innermost: Frame, outermost: Frame) -> str:
    """`transpose(1, 2)`, with what it came to where that is another: `… by permute(0, -1, -2)`."""
    first, last = _called(outermost), _called(innermost)
    return first if innermost is outermost else f"{first}, by {last},"


def _called(frame: Frame) -> str:
    variables = frame.variables
    if frame.function == "__torch_function__":
        func: Any = variables.get("func")
        return f"torch.{getattr(func, '__name__', 'an operation')}"
    given = [value for name, value in variables.items() if name in frame.parameters]
    flat = [each for value in given for each in (value if type(value) is tuple else (value,))]
    words = ", ".join(str(each) for each in flat if type(each) in (int, slice, type(None)))
    return f"{frame.function}({words})"


def _factors(frame: Frame | None) -> tuple[Row, ...]:
    if frame is None:
        return ()
    values = [frame.variables.get("self"), *frame.variables.values()]
    for value in values:
        if class_name(type(value)) == _CLASS:
            halves = (("A", held(value, "_lora_A")), ("B", held(value, "_lora_B")))
            return tuple(Row(half, _words(tensor)) for half, tensor in halves if tensor is not None)
    return ()


def _words(tensor: Any) -> tuple[str, ...]:
    shape, dtype, _ = shape_and_dtype(tensor)
    rank = "lazy" if is_lazy(tensor) else ""
    return f"[{', '.join(map(str, shape))}]", dtype, rank


def _tensor_name(caught: Caught) -> str:
    found = (
        frame.variables.get("name")
        for frame in reversed(caught.frames)
        if frame.function in ("prepare_tensors", "modify_tensors")
    )
    return next((each for each in found if type(each) is str), "")


def _unexpected(caught: Caught) -> Explanation | None:
    """`Unexpected name 'X': Not a lora_A or lora_B tensor`, logged, then sys.exit(1)."""
    frame = caught.frame("get_tensors")
    if frame is None or not raised(caught, SystemExit) or "is_lora_a" not in frame.variables:
        return None
    name = frame.variables.get("name")
    if type(name) is not str:
        return None
    adapter = caught.conversion.adapter if caught.conversion is not None else None
    other = [
        key
        for key in adapter or ()
        if type(key) is str
        and not any(half in key for half in (".lora_A", ".lora_B", ".lora_embedding_"))
    ]
    says = f"the adapter has a tensor {name}, which is no half (lora_A, lora_B) of a pair"
    if ".embed_tokens." in name or ".lm_head." in name:
        cause = Cause(
            "the whole embedding was saved with the adapter, as peft does where tokens were added "
            "or it was trained (modules_to_save, save_embedding_layers)"
        )
        step = Step(
            "merge the adapter into the base model and convert that, or save it without: "
            "model.save_pretrained(DIR, save_embedding_layers=False)"
        )
    else:
        cause = Cause(
            "it comes from modules_to_save, or from another method than LoRA (DoRA, IA³, VeRA)",
            guess=True,
        )
        step = Step("look at peft_type, use_dora and modules_to_save", (_config_command(caught),))
    rows = tuple(Row(key) for key in other or [name])
    table = Table("tensors of the adapter that are no half", rows, brief=True)
    return Explanation("lora name", says, (cause,), (table,), (step,), frame.place)


def _config_command(caught: Caught) -> str:
    found = (frame.variables.get("lora_config") for frame in caught.frames)
    path = next((str(each) for each in found if each is not None), "adapter_config.json")
    return f"hparams {path}"


def _output_ignored(caught: Caught) -> Explanation | None:
    if not raised(caught, ValueError) or not caught.message.startswith("lm_head is present"):
        return None
    says = "the adapter changes lm_head, and the base model's converter drops lm_head.weight"
    causes = (
        Cause("the base model's embeddings are tied: its GGUF has no output tensor to change"),
    )
    steps = (
        Step(
            "leave lm_head out of target_modules, or merge the adapter into the base model and "
            "convert that: model.merge_and_unload()"
        ),
        Step("see whether they are tied", ("hparams tie_word_embeddings",)),
    )
    where = caught.frames[0].place if caught.frames else ""
    return Explanation("lora lm_head", says, causes, (), steps, where)


def _half(caught: Caught) -> Explanation | None:
    """`assert tensor.A is not None`: a half without the other."""
    frame = caught.frame("get_tensors")
    if frame is None or not raised(caught, AssertionError) or "tensor_map" not in frame.variables:
        return None
    pairs: Any = frame.variables["tensor_map"]
    rows = [
        Row(name, (f"lora_{half} only",))
        for name, pair in (pairs.items() if type(pairs) is dict else ())
        for half, other in (("A", "B"), ("B", "A"))
        if type(name) is str and held(pair, half) is not None and held(pair, other) is None
    ]
    if not rows:
        return None
    says = f"the adapter has one half of the pair for {rows[0].name}, and not the other"
    cause = Cause("the adapter's file is not whole", guess=True)
    step = Step("see what it holds", ("ckpt",))
    return Explanation(
        "lora half",
        says,
        (cause,),
        (Table("halves alone", tuple(rows), brief=True),),
        (step,),
        frame.place,
    )
