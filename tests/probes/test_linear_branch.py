"""The prediction of linear-path, set against the profiler."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from modpdb.probes.linear import predict
from modpdb.probes.linear_branch import (
    Branch,
    Call,
    Op,
    Surroundings,
    TensorFacts,
    branch,
    row_major,
    tensor_facts,
    version_of,
)
from modpdb.probes.profiling import Observation, difference, observe

pytestmark = pytest.mark.skipif(
    version_of(torch.__version__) != (2, 13), reason="the rules were measured on torch 2.13"
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
MODES = {
    "grad": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


def layer_of(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A Linear with this weight and bias, of any layout, dtype and rank."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=bias.requires_grad)
    return layer


def names(ops: tuple[Op, ...]) -> str:
    """t, matmul(mm): two levels, the second of matmul and linear only."""
    return ", ".join(
        f"{op.name}({names(op.inner)})" if op.inner and op.name in ("matmul", "linear") else op.name
        for op in ops
    )


@st.composite
def inputs(draw: st.DrawFn) -> torch.Tensor:
    """Zeros of rank 1 to 4 in every kind of stride: permuted, stepped, cut, expanded."""
    dtype = draw(st.sampled_from(DTYPES))
    rank = draw(st.integers(1, 4))
    shape = draw(st.lists(st.integers(0, 3), min_size=rank, max_size=rank))
    shape[-1] = max(shape[-1], 1)
    kind = draw(st.sampled_from(["contiguous", "permuted", "stepped", "cut", "expanded"]))
    if kind == "permuted":
        order = draw(st.permutations(range(rank)))
        stored = torch.zeros([shape[axis] for axis in order], dtype=dtype)
        return stored.permute([order.index(axis) for axis in range(rank)])
    if kind == "cut":
        return torch.zeros([*shape[:-1], 2 * shape[-1]], dtype=dtype)[..., : shape[-1]]
    if kind == "stepped":
        return torch.zeros([*shape[:-1], 2 * shape[-1]], dtype=dtype)[..., ::2]
    if kind == "expanded":
        return torch.zeros([1, *shape[1:]], dtype=dtype).expand(shape)
    return torch.zeros(shape, dtype=dtype)


@given(
    x=inputs(),
    out=st.integers(1, 3),
    bias=st.sampled_from(["none", "1-D", "row", "matrix", "one", "scalar"]),
    mode=st.sampled_from(sorted(MODES)),
    made_in_mode=st.booleans(),
    wants=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
@settings(max_examples=150, deadline=None)
def test_prediction_is_what_the_profiler_sees(x, out, bias, mode, made_in_mode, wants):
    shapes = {"1-D": (out,), "row": (1, out), "one": (1,), "scalar": ()}
    if bias == "matrix":
        assume(x.dim() > 1)
        shapes["matrix"] = (x.shape[-2], out)
    x = x.detach().requires_grad_(wants[0])
    with MODES[mode]() if made_in_mode else contextlib.nullcontext():
        weight = torch.zeros(out, x.shape[-1], dtype=x.dtype, requires_grad=wants[1])
        offset = None
        if bias in shapes:
            offset = torch.zeros(shapes[bias], dtype=x.dtype, requires_grad=wants[2])
        layer = layer_of(weight, offset)
    with MODES[mode]():
        predicted, seen = predict(layer, x), observe(layer, x)
    assert tensor_facts(x).contiguous == x.is_contiguous()
    assert predicted.certainty in ("predicted", "refused"), predicted
    assert difference(predicted, seen) == "", (predicted, seen)


def test_prediction_holds_under_the_flatten_variable():
    """torch reads TORCH_LINEAR_FLATTEN_3D once in a process, so the property runs in another."""
    here, name = Path(__file__), test_prediction_is_what_the_profiler_sees.__name__
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{here}::{name}"],
        env={**os.environ, "TORCH_LINEAR_FLATTEN_3D": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout


BIAS = torch.zeros(5)
WEIGHT = torch.zeros(5, 4)
NO_COPY = "expand, reshape, expand, reshape, bmm, _unsafe_view"

# (input, weight, bias, operators): the rows of a table measured by hand on torch 2.13.
TABLE = {
    "2-D": (torch.zeros(3, 4), WEIGHT, BIAS, "t, addmm"),
    "2-D bf16": (torch.zeros(3, 4).bfloat16(), WEIGHT.bfloat16(), BIAS.bfloat16(), "t, addmm"),
    "2-D f16": (torch.zeros(3, 4).half(), WEIGHT.half(), BIAS.half(), "t, addmm"),
    "2-D non-contiguous": (torch.zeros(4, 3).t(), WEIGHT, BIAS, "t, addmm"),
    "2-D no bias": (torch.zeros(3, 4), WEIGHT, None, "t, matmul(mm)"),
    "3-D": (torch.zeros(2, 3, 4), WEIGHT, BIAS, "view, t, addmm, view"),
    "4-D": (torch.zeros(2, 2, 3, 4), WEIGHT, BIAS, "view, t, addmm, view"),
    "3-D non-contiguous": (
        torch.zeros(3, 2, 4).transpose(0, 1),
        WEIGHT,
        BIAS,
        f"t, matmul({NO_COPY}), add_",
    ),
    "3-D non-contiguous, requires_grad": (
        torch.zeros(3, 2, 4).transpose(0, 1),
        torch.zeros(5, 4, requires_grad=True),
        BIAS,
        "t, matmul(reshape, mm, _unsafe_view), add_",
    ),
    "4-D non-contiguous": (
        torch.zeros(3, 2, 2, 4).transpose(0, 1),
        WEIGHT,
        BIAS,
        f"t, matmul({NO_COPY}), add_",
    ),
    "3-D no bias": (torch.zeros(2, 3, 4), WEIGHT, None, "t, matmul(reshape, mm, _unsafe_view)"),
    "1-D": (torch.zeros(4), WEIGHT, BIAS, "view, t, addmm, view"),
    "1-D no bias": (torch.zeros(4), WEIGHT, None, "t, matmul(unsqueeze, mm, squeeze_)"),
    "3-D, bias [1, 5]": (
        torch.zeros(2, 3, 4),
        WEIGHT,
        torch.zeros(1, 5),
        "squeeze, view, t, addmm, view",
    ),
    "3-D, bias [3, 5]": (
        torch.zeros(2, 3, 4),
        WEIGHT,
        torch.zeros(3, 5),
        "squeeze, t, matmul(reshape, mm, _unsafe_view), add_",
    ),
    "mkldnn": (
        torch.zeros(2, 3, 4).to_mkldnn(),
        WEIGHT.to_mkldnn(),
        BIAS.to_mkldnn(),
        "mkldnn_linear",
    ),
    "meta": (
        torch.zeros(3, 2, 4, device="meta").transpose(0, 1),
        WEIGHT.to("meta"),
        BIAS.to("meta"),
        f"t, matmul({NO_COPY}), add",
    ),
}


@pytest.mark.parametrize("mode", ["grad", "inference"])
@pytest.mark.parametrize("row", TABLE)
def test_table(row, mode):
    x, weight, bias, expected = TABLE[row]
    layer = layer_of(weight, bias)
    with MODES[mode]():
        predicted, seen = predict(layer, x), observe(layer, x)
    assert predicted.certainty == "predicted"
    assert names(predicted.ops) == expected
    assert names(seen.ops) == expected
    assert difference(predicted, seen) == ""


def test_flatten_variable_copies_a_non_contiguous_input():
    around = Surroundings((2, 13), flatten=True)
    x = TensorFacts((2, 3, 4), (4, 8, 1), "float32")
    call = Call(x, facts(5, 4), facts(5), around)
    assert names(branch(call).ops) == "contiguous, view, t, addmm, view"
    assert "TORCH_LINEAR_FLATTEN_3D" in branch(call).reason


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    layer, x = nn.Linear(4, 5), torch.zeros(2, 3, 4)
    with torch.autocast("cpu", dtype=dtype):
        for input in (x, x.to(dtype), x.transpose(0, 1).to(dtype)):
            predicted, seen = predict(layer, input), observe(layer, input)
            assert predicted.certainty == "predicted"
            assert difference(predicted, seen) == ""
        assert predict(layer, x.transpose(0, 1)).certainty == "not known"
        assert names(predict(layer, x).ops) == "to, to, to, linear(view, t, addmm, view)"


def facts(*shape: int, **known: str) -> TensorFacts:
    return TensorFacts(shape, row_major(shape), known.pop("dtype", "float32"), **known)


NOW = Surroundings((2, 13))


@pytest.mark.parametrize(
    ("call", "certainty"),
    [
        (Call(facts(3, 4), facts(5, 4), facts(5), Surroundings((2, 14))), "not known"),
        (Call(facts(3, 4), facts(5, 4), facts(5), Surroundings((2, 9))), "guessed"),
        (Call(facts(3, 4), facts(5, 4), facts(1, 5), Surroundings((2, 9))), "not known"),
        (Call(facts(3, 4, device="cuda:0"), facts(5, 4), None, NOW), "refused"),
        (Call(facts(4, dtype="int64"), facts(5, 4, dtype="int64"), None, NOW), "guessed"),
        (Call(facts(3, 4, subclass="DTensor"), facts(5, 4), None, NOW), "not known"),
        (Call(facts(3, 4, layout="nested"), facts(5, 4), None, NOW), "not known"),
        (Call(facts(3, 4), facts(5, 4, layout="sparse_csr"), None, NOW), "not known"),
        (Call(facts(3, 4), facts(4), None, NOW), "not known"),
        (Call(facts(3, 5), facts(5, 4), facts(5), NOW), "refused"),
        (Call(facts(), facts(5, 4), facts(5), NOW), "refused"),
        (Call(facts(3, 4, dtype="float64"), facts(5, 4), facts(5), NOW), "refused"),
        (Call(facts(3, 4), facts(5, 4), facts(2), NOW), "refused"),
    ],
)
def test_what_is_not_predicted(call, certainty):
    found = branch(call)
    assert found.certainty == certainty
    assert bool(found.ops) == (certainty == "guessed")


def test_difference_names_the_place():
    branch = Branch("predicted", "", (Op("t"), Op("matmul", (Op("reshape"), Op("mm")))))
    seen = Observation("F.linear", None, ops=(Op("t"), Op("matmul", (Op("expand"), Op("bmm")))))
    assert difference(branch, seen) == "operator 1 of matmul: predicted reshape, observed expand"
    short = Observation("F.linear", None, ops=(Op("t"),))
    assert difference(branch, short) == "operator 2: predicted matmul, observed no more"
    failed = Observation("F.linear", None, error="RuntimeError: no")
    assert "no" in difference(branch, failed)
    assert difference(Branch("refused", "dtype"), failed) == ""
    assert difference(Branch("refused", "dtype"), short)
