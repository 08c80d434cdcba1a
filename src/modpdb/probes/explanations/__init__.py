"""What went wrong in a conversion: a recogniser for each failure that its users report.

`explanation_of(error, …)` asks one after the other; the first that knows the exception answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from modpdb.probes.conversion import find_conversion
from modpdb.probes.explanations.architecture import no_folder, unsupported
from modpdb.probes.explanations.duplicates import duplicated
from modpdb.probes.explanations.experts import unprocessed_experts
from modpdb.probes.explanations.explanation import (
    Ahead,
    Caught,
    Explanation,
    chain,
    frames_of,
    traceback_of,
)
from modpdb.probes.explanations.lora import lora
from modpdb.probes.explanations.missing_files import missing_files
from modpdb.probes.explanations.missing_hparam import missing_hparam
from modpdb.probes.explanations.mmproj import preprocessor_key
from modpdb.probes.explanations.tokenizers import (
    tokenizer_files,
    unknown_pre_tokenizer,
    vocabulary,
)
from modpdb.probes.explanations.unmapped import unmapped
from modpdb.probes.explanations.writing import at_hand, metadata_value, tensor_written
from modpdb.probes.provenance import Provenance

RECOGNISERS: tuple[Callable[[Caught], Explanation | None], ...] = (
    unmapped,
    unknown_pre_tokenizer,
    unsupported,
    no_folder,
    lora,
    tokenizer_files,
    vocabulary,
    preprocessor_key,
    missing_hparam,
    duplicated,
    missing_files,
    unprocessed_experts,
    metadata_value,
    tensor_written,
    at_hand,
)

OF_A_WRITER = (metadata_value, tensor_written)
"""Those for which a GGUFWriter is enough, whatever script it works for."""


def caught_of(
    error: BaseException, variables: Mapping[int, Mapping[str, Any]] | None = None
) -> list[Caught]:
    """*error* and the exceptions behind it, each with its frames; their conversion is that of
    whichever has one. *variables* as `frames_of` takes them."""
    errors = [(each, frames_of(traceback_of(each), variables or {})) for each in chain(error)]
    found = (find_conversion([frame.variables for frame in frames]) for _, frames in errors)
    conversion = next((each for each in found if each is not None), None)
    return [Caught(each, frames, conversion) for each, frames in errors]


def explanation_of(
    caught: list[Caught], ahead: Ahead | None = None, provenance: Provenance | None = None
) -> Explanation | None:
    """What the first recogniser that knows one of the exceptions says; None where none does.

    *ahead*: what a dry run of the rest has found; *provenance*: where what is written comes from.
    """
    for each in caught:
        for recognise in RECOGNISERS if each.conversion is not None else OF_A_WRITER:
            found = recognise(replace(each, ahead=ahead, provenance=provenance))
            if found is not None:
                return found
    return None
