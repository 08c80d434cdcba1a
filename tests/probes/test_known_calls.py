"""Predictions for known layers against the profiler."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from modpdb.probes.known_calls import known_layer, predicted
from modpdb.probes.linear_branch import version_of
from modpdb.probes.matching import disagreement
from modpdb.probes.observing import Run, Seen
from modpdb.probes.profiling import Event, events

pytestmark = pytest.mark.skipif(
    version_of(torch.__version__) != (2, 13), reason="the rules were measured on torch 2.13"
)

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
MODES = st.sampled_from([contextlib.nullcontext, torch.no_grad, torch.inference_mode])
SIZES = st.integers(1, 4)
FEW = settings(max_examples=25, deadline=None)


def observed(target, *args, **kwargs) -> Run:
    """A run in this process: the tests' layers have nothing to protect."""

    def seen(found: tuple[Event, ...]) -> tuple[Seen, ...]:
        return tuple(
            Seen(each.name.removeprefix("aten::"), "", (), 1, (), seen(each.inner))
            for each in found
        )

    try:
        return Run(seen(events(lambda: target(*args, **kwargs))))
    except (RuntimeError, ValueError) as problem:
        return Run(error=str(problem))


def agree(target, *args, certainty: tuple[str, ...] = ("predicted",), **kwargs) -> str:
    prediction = predicted(target, args, kwargs)
    assert prediction is not None and prediction.branch.certainty in certainty, prediction
    if prediction.branch.certainty != "not known":
        assert disagreement(prediction, observed(target, *args, **kwargs)) == ""
    return prediction.branch.certainty


@FEW
@given(DTYPES, MODES, st.lists(SIZES, max_size=3), st.booleans(), st.booleans())
def test_linear(dtype, mode, batch, bias, train):
    layer = nn.Linear(3, 5, bias=bias, dtype=dtype).train(train)
    with mode():
        agree(layer, torch.randn(*batch, 3).to(dtype))


@FEW
@given(
    DTYPES,
    MODES,
    st.lists(SIZES, max_size=3),
    st.sampled_from([torch.int64, torch.int32]),
    st.sampled_from([None, 1.0]),
    st.booleans(),
    st.booleans(),
)
def test_embedding(dtype, mode, shape, indices, max_norm, sparse, turned):
    layer = nn.Embedding(7, 3, max_norm=max_norm, sparse=sparse, padding_idx=0).to(dtype)
    ids = torch.zeros(shape, dtype=indices)
    ids = ids.mT if turned and len(shape) > 1 else ids
    with mode():
        agree(layer, ids)


@FEW
@given(
    st.sampled_from([nn.LayerNorm, nn.RMSNorm]),
    DTYPES,
    DTYPES,
    MODES,
    st.lists(SIZES, max_size=2),
    st.booleans(),
    st.integers(1, 2),
)
def test_norms(cls, dtype, of_weight, mode, batch, affine, over):
    layer = cls((4, 3)[-over:], elementwise_affine=affine).to(of_weight)
    x = torch.randn(*batch, 4, 3).to(dtype)
    with mode():
        agree(layer, x, certainty=("predicted", "not known") if affine else ("predicted",))


@FEW
@given(
    st.sampled_from([nn.Conv1d, nn.Conv2d, nn.Conv3d]),
    DTYPES,
    MODES,
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 1, "same", "valid"]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["zeros", "reflect", "circular"]),
    st.integers(1, 7),
)
def test_convolutions(
    cls, dtype, mode, batch, bias, groups, stride, dilation, padding, kernel, padding_mode, size
):
    assume(not (padding == "same" and stride > 1))
    assume(padding_mode != "circular" or batch)
    options = {"groups": groups, "stride": stride, "dilation": dilation, "padding": padding}
    layer = cls(4, 4, kernel, bias=bias, padding_mode=padding_mode, **options).to(dtype)
    spatial = [size] * (layer.weight.dim() - 2)
    x = torch.randn(*([batch] if batch else []), 4, *spatial).to(dtype)
    with mode():
        agree(layer, x, certainty=("predicted", "refused"))


@FEW
@given(
    MODES,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, "bool", "float"]),
    st.booleans(),
    st.booleans(),
)
def test_multihead_attention(
    mode, train, batch_first, bias, heads, same, batched, mask, padding, weights
):
    layer = nn.MultiheadAttention(8, heads, bias=bias, batch_first=batch_first).train(train)
    x = torch.randn(*([2] if batched else []), 2, 8)
    other = x if same else x.clone()
    masks = {}
    if mask is not None:
        masks["attn_mask"] = torch.zeros(2, 2, dtype=getattr(torch, mask))
    if padding:
        masks["key_padding_mask"] = torch.zeros((2, 2) if batched else (2,), dtype=torch.bool)
    with mode():
        agree(layer, x, other, other, need_weights=weights, **masks)


@FEW
@given(
    DTYPES,
    MODES,
    st.lists(st.integers(1, 2), min_size=0, max_size=2),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([None, "causal", "mask", "wanting"]),
    st.booleans(),
)
def test_scaled_dot_product_attention(dtype, mode, batch, dropout, masked, grad):
    q = torch.randn(*batch, 3, 8).to(dtype).requires_grad_(grad)
    options: dict = {"dropout_p": dropout}
    if masked == "causal":
        options["is_causal"] = True
    elif masked:
        options["attn_mask"] = torch.zeros(3, 3, dtype=dtype, requires_grad=masked == "wanting")
    with mode():
        agree(F.scaled_dot_product_attention, q, q, q, **options)


@pytest.mark.parametrize(
    ("layer", "x", "reason"),
    [
        (nn.Embedding(3, 2), torch.zeros(2), "indices of float32"),
        (nn.LayerNorm(3), torch.zeros(2, 4), "the last dimensions must be [3]"),
        (nn.RMSNorm((2, 3)), torch.zeros(3), "the last dimensions must be [2, 3]"),
        (nn.Conv2d(1, 1, 1), torch.zeros(2, 2), "3-D or 4-D is wanted"),
        (nn.Conv1d(1, 1, 3), torch.zeros(1, 1, 2), "Kernel size can't be greater"),
        (nn.Conv2d(2, 2, 1), torch.zeros(1, 4, 3, 3), "to have 2 channels, but got 4"),
        (nn.Conv1d(1, 1, 1), torch.zeros(1, 1, 2).double(), "float64 and float32"),
        (nn.Linear(3, 2), torch.zeros(2, 4), "4 features"),
    ],
)
def test_what_is_refused(layer, x, reason):
    assert agree(layer, x, certainty=("refused",)) == "refused"
    assert reason in predicted(layer, (x,), {}).branch.reason


def test_the_choosers_leave_no_trace():
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 5, 5, requires_grad=True)
    before = torch.get_rng_state()
    predicted(layer, (x,), {})
    predicted(F.scaled_dot_product_attention, (x, x, x), {"dropout_p": 0.5})
    assert torch.equal(torch.get_rng_state(), before)
    assert x.grad is None and x._version == 0 and x.grad_fn is None


def test_only_torchs_own_forward_is_known():
    class Own(nn.LayerNorm):
        def forward(self, x):
            return x

    class Derived(nn.LayerNorm):
        pass

    replaced = nn.LayerNorm(3)
    replaced.forward = lambda x: x
    assert known_layer(Own(3)) is None and known_layer(replaced) is None
    assert known_layer(Derived(3)) == "LayerNorm"
    assert known_layer(nn.Sequential()) is None and known_layer(F.relu) is None


def test_what_is_not_known_is_said():
    with torch.autocast("cpu", torch.bfloat16):
        prediction = predicted(nn.LayerNorm(3), (torch.zeros(2, 3),), {})
    assert prediction.branch.certainty == "not known" and "autocast" in prediction.branch.reason

    class Mine(torch.Tensor):
        pass

    x = torch.zeros(2, 3).as_subclass(Mine)
    assert predicted(nn.LayerNorm(3), (x,), {}).branch.certainty == "not known"
    for odd in (torch.zeros(2, 3).to_sparse(), torch.zeros(2, 3).int(), torch.zeros(2, 3).cfloat()):
        assert predicted(nn.LayerNorm(3), (odd,), {}).branch.certainty == "not known"
        assert predicted(nn.Conv1d(2, 2, 1), (odd,), {}).branch.certainty == "not known"
    assert predicted(nn.LayerNorm(3), (), {}) is None
    assert predicted(nn.LayerNorm(3), (1,), {}) is None
    assert predicted(nn.MultiheadAttention(4, 2), (x, None, x), {}) is None
    elsewhere = predicted(nn.LayerNorm(3, device="meta"), (torch.zeros(2, 3, device="meta"),), {})
    assert elsewhere.branch.certainty == "guessed"


def test_why_multihead_attention_is_not_fast():
    def why(layer, *given, **more):
        return predicted(layer, given or (x, x, x), more).branch.reason

    x = torch.zeros(2, 3, 4)
    with torch.no_grad():
        assert "the fast path" in why(nn.MultiheadAttention(4, 2, batch_first=True).eval())
        assert "training is enabled" in why(nn.MultiheadAttention(4, 2, batch_first=True))
        assert "batch_first" in why(nn.MultiheadAttention(4, 2).eval())
        assert "not even" in why(nn.MultiheadAttention(3, 3, batch_first=True).eval(), *[x[..., :3]] * 3)  # fmt: skip
        assert "bias_k" in why(
            nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True).eval()
        )
        eager = nn.MultiheadAttention(4, 2, batch_first=True).eval()
        assert "not the same tensor" in why(eager, x, x.clone(), x)
        assert "not batched" in why(eager, *[x[0]] * 3)
        assert "floating point" in why(eager, attn_mask=torch.zeros(3, 3))
    assert "requires one" in why(eager)
