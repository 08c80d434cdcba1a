"""`modules`, from the model to the text on the screen, of models without their memory."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING
from unittest.mock import patch

from benchmarks.measuring import BenchError, Measured, interleaved, repeated, timed

# torch and transformers (in benchmarks.models) take seconds to import: only when a row needs them.

if TYPE_CHECKING:
    from torch import nn

WIDTH = {"COLUMNS": "80"}


def modules_printed(model: nn.Module) -> str:
    """What `modules` does: the tree, its view, and the view's text."""
    from modpdb.probes.modules import module_tree
    from modpdb.views import modules as views
    from modpdb.views.console import print_to

    printed = io.StringIO()
    print_to(printed, [views.module_tree(module_tree(model))], color=False)
    return printed.getvalue()


@patch.dict(os.environ, WIDTH)
def llama_against_torchinfo(repetitions: int) -> Measured:
    """Both of a Llama 405B. Raises BenchError where the two do not count the same parameters."""
    import torchinfo

    from benchmarks.models import llama_405b
    from modpdb.probes.modules import module_tree

    model = llama_405b()
    ours = module_tree(model).root.facts.parameters
    theirs = torchinfo.summary(model, verbose=0).total_params
    if ours != theirs:
        raise BenchError(f"modpdb counts {ours:,} parameters, torchinfo {theirs:,}")
    check_folded(modules_printed(model), "layers.{0…125}")
    return interleaved(
        repetitions,
        timed(lambda: modules_printed(model)),
        timed(lambda: str(torchinfo.summary(model, verbose=0))),
    )


@patch.dict(os.environ, WIDTH)
def mixture_of_experts(repetitions: int) -> Measured:
    """A mixture of 60,000 modules. Raises BenchError where the tree is not all of it, folded."""
    from benchmarks.models import mixture_of_experts
    from modpdb.probes.modules import module_tree

    model = mixture_of_experts()
    found, there = module_tree(model).modules, sum(1 for _ in model.modules())
    if found != there:
        raise BenchError(f"modpdb finds {found:,} modules of {there:,}")
    check_folded(modules_printed(model), "layers.{0…57}", "experts.{0…255}")
    return repeated(repetitions, timed(lambda: modules_printed(model)))


def check_folded(printed: str, *blocks: str) -> None:
    """Raises BenchError where one of the blocks is not one row."""
    for block in blocks:
        if printed.count(block) != 1:
            raise BenchError(f"{block} is not one row of what `modules` prints:\n{printed}")
