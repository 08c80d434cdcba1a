"""Tokenizers that cannot be converted: an unknown pre-tokenizer, missing files, too many tokens."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modpdb.probes.explanations.explanation import (
    Caught,
    Cause,
    Explanation,
    Frame,
    Row,
    Step,
    Table,
    arguments,
    raised,
)
from modpdb.probes.explanations.sizes import VOCABULARY, shown_number, tensors_of
from modpdb.probes.files import CheckpointError, open_file, read_json, size_of

FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
# How llama.cpp names tokenizers by what they split at, and by whether a word that is a token stays
# whole (ignore_merges): src/llama-vocab.cpp of llama-cpp-python 0.3.36, llm_tokenizer_bpe, by the
# regexes that it has for those of tokenizer.json, and llama_vocab::impl::load. Where several names
# differ in nothing that tokenizer.json tells, the first of them.
_GPT2 = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # ByteLevel's own
)
_DIGIT = r"\p{N}"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORD, _CAPITALS, _SMALL = (
    r"[^\r\n\p{L}\p{N}]?",
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
)
_TEKKEN = (
    rf"{_WORD}{_CAPITALS}*{_SMALL}+|{_WORD}{_CAPITALS}+{_SMALL}*|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT4O = (
    rf"{_WORD}{_CAPITALS}*{_SMALL}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    rf"{_WORD}{_CAPITALS}+{_SMALL}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{{N}}{{1,3}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((_DIGIT, _GPT2), False): "starcoder",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "dbrx",
    ((_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),), False): "qwen2",
    ((_QWEN35,), False): "qwen35",
    ((_TEKKEN,), True): "tekken",
    ((_GPT4O,), False): "gpt-4o",
}
_OTHER = "?"  # a split that llama.cpp has no name for
_SHOWN = 100  # characters of a regex


def unknown_pre_tokenizer(caught: Caught) -> Explanation | None:
    """`BPE pre-tokenizer was not recognized`: the hash, and how the tokenizer splits."""
    message = caught.message
    if not raised(caught, NotImplementedError) or "pre-tokenizer was not recognized" not in message:
        return None
    frame = caught.frame("get_vocab_base_pre")
    if frame is None:
        return None
    digest, tokens = (frame.variables.get(name) for name in ("chkhsh", "chktok"))
    folder = caught.conversion.dir_model if caught.conversion is not None else None
    splits, known = _splits(folder) if folder is not None else ((), "")
    rows = []
    if type(tokens) is list:
        rows.append(Row("chktok", (f"{len(tokens):,} tokens: {_first(tokens)}",)))
    rows += [Row("pre_tokenizer", (_cut(words),)) for words in splits]
    says = (
        "get_vocab_base_pre() does not know this tokenizer: no line of it has the hash of how it "
        "splits the test text"
    )
    causes = [Cause(_alike(known), guess=True)] if known else []
    causes.append(
        Cause(
            "the tokenizer is new, or was changed since it was added: the hash is of its "
            "merges, too",
            guess=True,
        )
    )
    steps = _pre_steps(frame, digest, known)
    table = Table("the tokenizer", tuple(rows), brief=True)
    return Explanation("pre-tokenizer", says, tuple(causes), (table,), steps, frame.place)


def _alike(name: str) -> str:
    return f"by tokenizer.json it splits as llama.cpp's {name} does, with another vocabulary"


def _pre_steps(frame: Frame, digest: Any, known: str) -> tuple[Step, ...]:
    name = known or "NAME"
    paste = (
        f'        if chkhsh == "{digest}":',
        "            # ref: https://huggingface.co/ORG/MODEL",
        f'            res = "{name}"',
    )
    repo = "https://huggingface.co/ORG/MODEL"
    entry = f'{{"name": "{name}", "tokt": TOKENIZER_TYPE.BPE, "repo": "{repo}"}},'
    guess = ", a guess" if known else ""
    return (
        Step(
            f"to go on{guess}: above it",
            paste,
            frame.file,
            _line_of(frame, "if res is None"),
        ),
        Step("to keep it: in `models` of convert_hf_to_gguf_update.py, then run that", (entry,)),
        Step("a NAME that is new also needs its regex in llama.cpp's src/llama-vocab.cpp"),
    )


def _line_of(frame: Frame, text: str) -> int:
    """The last line with *text* above the one that raised."""
    import linecache

    lines = linecache.getlines(frame.file)[: frame.line]
    found = [number for number, line in enumerate(lines, 1) if text in line]
    return found[-1] if found else frame.line


def _splits(folder: Path) -> tuple[tuple[str, ...], str]:
    """How tokenizer.json splits, in words, and llama.cpp's name of that, "" for none known."""
    try:
        with open_file(folder / "tokenizer.json") as file:
            found = json.loads(file.read(size_of(file)))
    except (CheckpointError, ValueError, RecursionError):
        return ("tokenizer.json is not there or cannot be read",), ""
    held = found if type(found) is dict else {}
    top, model = held.get("pre_tokenizer"), held.get("model")
    steps = top.get("pretokenizers", [top]) if type(top) is dict else []
    listed = [each for each in steps if type(each) is dict] if type(steps) is list else []
    parts = [_part(each) for each in listed]
    whole = type(model) is dict and model.get("ignore_merges") is True
    words = tuple(word for word, _ in parts)
    if whole:
        words += ("ignore_merges: a word that is a token is not split",)
    regexes = tuple(regex for _, regex in parts if regex)
    return words, _NAMES.get((regexes, whole), "")


def _part(step: dict[str, Any]) -> tuple[str, str]:
    """A pre-tokenizer in words, and the regex that it splits at: "" for one that does not split."""
    kind, pattern = step.get("type"), step.get("pattern")
    regex = pattern.get("Regex") if type(pattern) is dict else None
    if kind == "ByteLevel":
        own = step.get("use_regex", True) is True
        return f"ByteLevel{' with GPT-2’s regex' if own else ''}", _GPT2 if own else ""
    if kind == "Digits" and step.get("individual_digits") is True:
        return "Digits, each alone", _DIGIT
    if kind == "Split" and type(regex) is str:
        plain = step.get("behavior") == "Isolated" and step.get("invert") is not True
        said = "" if plain else f", {step.get('behavior')}{', inverted' * bool(step.get('invert'))}"
        return f"Split by {regex}{said}", regex if plain else _OTHER
    return str(kind), _OTHER


def _first(tokens: Any) -> str:
    return ", ".join(str(each) for each in tokens[:8] if type(each) is int) + ", …"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


# -- files ----------------------------------------------------------------------------------------


def tokenizer_files(caught: Caught) -> Explanation | None:
    """A file of the tokenizer's that is not there, and which are."""
    if not raised(caught, FileNotFoundError, OSError) or caught.conversion is None:
        return None
    wanted, folder = _named(caught), caught.conversion.dir_model
    frame = _vocabulary_frame(caught)
    if frame is None and wanted and caught.frames:
        frame = caught.frames[0]
    if frame is None or folder is None or (wanted and (folder / wanted).exists()):
        return None
    says = f"the tokenizer's file {wanted or 'that the converter reads'} is not there"
    rows = _there(folder)
    there = {row.name for row in rows if row.words[0] != "not there"}
    causes, steps = _of_files(wanted, there, folder, caught)
    table = Table(f"the tokenizer's files in {folder}", rows, brief=bool(there))
    return Explanation("tokenizer files", says, causes, (table,), steps, frame.place)


def _vocabulary_frame(caught: Caught) -> Frame | None:
    found = (
        frame
        for frame in caught.frames
        if "vocab" in frame.function.lower() and frame.variables.get("self") is not None
    )
    return next(found, None)


def _named(caught: Caught) -> str:
    """The file that the exception names, without its folder."""
    filename = OSError.filename.__get__(caught.error)
    texts = [filename, *arguments(caught.error)]
    for text in texts:
        if type(text) is str:
            for file in FILES:
                if file in text:
                    return file
    return ""


def _there(folder: Path) -> tuple[Row, ...]:
    rows = []
    for file in FILES:
        try:
            rows.append(Row(file, (f"{(folder / file).stat().st_size:,} bytes",)))
        except OSError:
            rows.append(Row(file, ("not there",)))
    return tuple(rows)


def _of_files(
    wanted: str, there: set[str], folder: Path, caught: Caught
) -> tuple[tuple[Cause, ...], tuple[Step, ...]]:
    copy = Step(
        "copy it from the original (REPO: its id)",
        (f"hf download REPO {wanted or FILES[0]} --local-dir {shlex.quote(str(folder))}",),
    )
    if not there:
        cause = Cause(f"{folder} has no tokenizer at all: save_pretrained of a model saves none")
        files = " ".join(FILES[:3])
        return (cause,), (
            Step(
                "copy it from the original (REPO: its id)",
                (f"hf download REPO {files} --local-dir {shlex.quote(str(folder))}",),
            ),
        )
    if wanted == FILES[0] and "tokenizer.json" in there:
        cause = Cause(
            "the class reads a sentencepiece tokenizer.model alone, and the checkpoint has "
            "tokenizer.json: it was saved by transformers' fast tokenizer, which leaves "
            "tokenizer.model out, or its tokenizer is a BPE of another kind",
            guess=True,
        )
        other = Step(
            f"if it is a BPE: in {_class(caught)}.set_vocab",
            ("self._set_vocab_gpt2()",),
        )
        return (cause,), (copy, other)
    return (Cause("the folder is not whole", guess=True),), (copy,)


def _class(caught: Caught) -> str:
    return caught.conversion.class_name if caught.conversion is not None else "the class"


# -- too many tokens ------------------------------------------------------------------------------


def vocabulary(caught: Caught) -> Explanation | None:
    """`assert max(tokenizer.vocab.values()) < vocab_size`: more tokens than rows of embeddings."""
    if not raised(caught, AssertionError) or caught.conversion is None:
        return None
    frame = _vocabulary_frame(caught)
    if frame is None or frame is not caught.frames[0]:
        return None
    config: Mapping[Any, Any] = caught.config if caught.config is not None else {}
    said = frame.variables.get("vocab_size", config.get("vocab_size"))
    if type(said) is not int:
        return None
    rows = shown_number(VOCABULARY, tensors_of(caught.conversion), config)
    tokens, added = _highest(caught.conversion.dir_model)
    table = [Row("config.json", (f"vocab_size {said:,}",))]
    if rows is not None:
        table.append(Row("the embedding", (f"{rows.value:,} rows", rows.how)))
    if tokens is not None:
        table.append(
            Row("tokenizer.json", (f"ids up to {tokens:,}", f"{added:,} of them added tokens"))
        )
    says = f"the tokenizer has ids of {said:,} and more, and config.json says vocab_size {said:,}"
    causes, steps = _of_vocabulary(said, rows.value if rows else None, tokens)
    return Explanation(
        "vocabulary",
        says,
        causes,
        (Table("vocabulary against embedding", tuple(table), brief=True),),
        steps,
        frame.place,
    )


def _of_vocabulary(
    said: int, rows: int | None, highest: int | None
) -> tuple[tuple[Cause, ...], tuple[Step, ...]]:
    if rows is not None and rows != said:
        cause = Cause(f"config.json is wrong: the embedding has {rows:,} rows")
        return (cause,), (Step("in config.json", (f'  "vocab_size": {rows},',)),)
    more = (
        f"{highest - said + 1} more than" if highest is not None and rows == said else "more than"
    )
    cause = Cause(
        f"tokens were added to the tokenizer, {more} the embedding has rows for, without "
        "model.resize_token_embeddings",
        guess=True,
    )
    step = Step(
        "take the tokenizer of the original, or save the model again after",
        ("model.resize_token_embeddings(len(tokenizer))",),
    )
    return (cause,), (step,)


def _highest(folder: Path | None) -> tuple[int | None, int]:
    """The highest id in tokenizer.json, and how many tokens were added."""
    if folder is None:
        return None, 0
    try:
        found = read_json(folder / "tokenizer.json", "the tokenizer")
    except CheckpointError:
        return None, 0
    model = found.get("model")
    vocab = model.get("vocab") if type(model) is dict else None
    added = found.get("added_tokens")
    listed = added if type(added) is list else []
    ids = [each.get("id") for each in listed if type(each) is dict]
    ids += list(vocab.values()) if type(vocab) is dict else []
    numbers = [each for each in ids if type(each) is int]
    return max(numbers, default=None), len(listed)
