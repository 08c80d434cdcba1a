"""What a GGUF holds, whether it lies in a file or in a writer that has not written it yet."""

from __future__ import annotations

from typing import NamedTuple

FIRST = 8  # items of an array that are kept
BLOCKS = 512  # numbers up to which all are kept, one for each block: LLAMA_MAX_LAYERS

# ggml's types: number, name as llama.cpp prints it, elements of a block and its bytes.
# gguf-py/gguf/constants.py: GGMLQuantizationType, GGML_QUANT_SIZES (llama.cpp of 2026).
_TYPES = (
    (0, "f32", 1, 4), (1, "f16", 1, 2), (2, "q4_0", 32, 18), (3, "q4_1", 32, 20),
    (6, "q5_0", 32, 22), (7, "q5_1", 32, 24), (8, "q8_0", 32, 34), (9, "q8_1", 32, 36),
    (10, "q2_K", 256, 84), (11, "q3_K", 256, 110), (12, "q4_K", 256, 144), (13, "q5_K", 256, 176),
    (14, "q6_K", 256, 210), (15, "q8_K", 256, 292), (16, "iq2_xxs", 256, 66),
    (17, "iq2_xs", 256, 74), (18, "iq3_xxs", 256, 98), (19, "iq1_s", 256, 50),
    (20, "iq4_nl", 32, 18), (21, "iq3_s", 256, 110), (22, "iq2_s", 256, 82),
    (23, "iq4_xs", 256, 136), (24, "i8", 1, 1), (25, "i16", 1, 2), (26, "i32", 1, 4),
    (27, "i64", 1, 8), (28, "f64", 1, 8), (29, "iq1_m", 256, 56), (30, "bf16", 1, 2),
    (34, "tq1_0", 256, 54), (35, "tq2_0", 256, 66), (39, "mxfp4", 32, 17), (40, "nvfp4", 64, 36),
    (41, "q1_0", 128, 18), (42, "q2_0", 64, 18),
)  # fmt: skip
GGML_TYPES = {number: (name, block, size) for number, name, block, size in _TYPES}


class Array(NamedTuple):
    """An array of metadata: the type of its items, how many, and the first of them."""

    of: str
    length: int
    first: tuple[object, ...]


def numbers_kept(length: int) -> int:
    """Of an array of *length* numbers."""
    return length if length <= BLOCKS else FIRST


class KeyValue(NamedTuple):
    """A key of the metadata; *type* by llama.cpp's names: u32, f32, bool, str, arr, …

    *value* is a number, a bool, a str or an Array.
    """

    key: str
    type: str
    value: object


class GGUFTensor(NamedTuple):
    """A tensor; *ne* has the fastest dimension first, as ggml counts, torch's shape reversed.

    *dtype* is ggml's type in short: f16, q8_0. *shard* counts from 0.
    """

    name: str
    dtype: str
    ne: tuple[int, ...]
    nbytes: int | None
    shard: int = 0


class GGUFContents(NamedTuple):
    """The metadata and tensors of a GGUF, in its order.

    *where* names the file, or says what holds them. *details* are what is worth a word: version,
    byte order, how much is written.
    """

    where: str
    metadata: tuple[KeyValue, ...]
    tensors: tuple[GGUFTensor, ...]
    details: tuple[str, ...] = ()
    shards: int = 1
    problems: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """What `general.architecture` says; "" where it is not set."""
        found = next((kv.value for kv in self.metadata if kv.key == "general.architecture"), "")
        return found if type(found) is str else ""
