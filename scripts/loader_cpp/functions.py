"""The C++ sources: tables of names, and functions as trees of statements."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Statement(NamedTuple):
    """*kind*: if, for, opaque (a switch, or a loop that is no count), do, leave, throw.

    *text* is the condition, the head of the loop or the statement; *inside* and *other* what is
    done.
    """

    kind: str
    text: str
    inside: tuple["Statement", ...] = ()
    other: tuple["Statement", ...] = ()


class Function(NamedTuple):
    parameters: tuple[str, ...]
    body: tuple[Statement, ...]


def mentioned(body: Sequence[Statement]) -> set[str]:
    """The tensors that *body* names, wherever."""
    texts = [text for _, text, *_ in body]
    names = set(re.findall(r"LLM_TENSOR_\w+", " ".join(texts)))
    return names.union(*(mentioned((*each.inside, *each.other)) for each in body))


class Sources:
    """llama.cpp's src/. Architectures and classes are keyed by `LLM_ARCH_…`."""

    def __init__(self, folder: Path) -> None:
        arch = _read(folder / "llama-arch.cpp")
        model = _read(folder / "llama-model.cpp")
        models = "\n".join(_read(file) for file in sorted((folder / "models").glob("*.cpp")))
        header = _read(folder / "models/models.h")
        self.architectures = dict(re.findall(r"\{ (LLM_ARCH_\w+), +\"([^\"]+)\" +\}", arch))
        self.architectures.pop("LLM_ARCH_UNKNOWN", None)
        self.keys = dict(re.findall(r"\{ (LLM_KV_\w+), +\"([^\"]+)\" +\}", arch))
        self.general = sorted(
            {key.partition(".")[0] for key in self.keys.values() if not key.startswith("%s.")}
        )
        self.tensors = dict(re.findall(r"\{ (LLM_TENSOR_\w+), +\"([^\"]+)\" +\}", arch))
        cases = re.findall(r"((?:case LLM_ARCH_\w+:\s*)+)return new (llama_model_\w+)\(", model)
        self.classes = {
            symbol: name for labels, name in cases for symbol in re.findall(r"LLM_ARCH_\w+", labels)
        }
        derived = r"struct (llama_model_\w+) : public (llama_model_\w+)"
        self.parents = dict(re.findall(derived, header))
        self._texts = (models, model)
        self.locals = re.findall(
            r"const \w+ +(\w+) += ([^;]+);",
            _between(_read(folder / "llama-model.h"), "#define LLAMA_LOAD_LOCALS", "\n\n"),
        )
        scales = re.findall(r"tn\((LLM_TENSOR_\w+), *\"(scale|input_scale)\"", model)
        names = {f"{self.tensors[name]}.{end}" for name, end in scales}
        self.sidecars = sorted(name.replace("%d", "{i}") for name in names)
        # Fields of llama_hparams that have a value before anything is read.
        found = re.findall(
            r"(?m)^ +(?:uint32_t|int32_t|bool) +(\w+) += (-?\d+|true|false);",
            _read(folder / "llama-hparams.h"),
        )
        self.defaults = {name: value.capitalize() for name, value in found}
        self._known: dict[tuple[str, str], Function | None] = {}

    def function(self, owner: str, name: str) -> Function | None:
        """A function of class *owner*, or of the one that it inherits from."""
        if (owner, name) not in self._known:
            self._known[owner, name] = self._find(owner, name)
        return self._known[owner, name]

    def _find(self, owner: str, name: str) -> Function | None:
        while owner:
            for text in self._texts:
                start = re.search(rf"^\w+ {owner}::{name}\(", text, re.MULTILINE)
                if start:
                    return _function(text, start.end() - 1)
            owner = self.parents.get(owner, "")
        return None


def _read(file: Path) -> str:
    """Without comments and lines for the preprocessor but for definitions."""
    tokens = r'("(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\')|//[^\n]*|/\*.*?\*/'
    text = re.sub(tokens, lambda match: match[1] or "", file.read_text("utf-8"), flags=re.DOTALL)
    return re.sub(r"(?m)^#(?!define).*$", "", text)


def _between(text: str, first: str, last: str) -> str:
    start = text.index(first)
    return text[start : text.index(last, start)]


def _function(text: str, at: int) -> Function:
    end = matching(text, at)
    names = tuple(re.findall(r"(\w+)\s*(?:=[^,]*)?(?:,|$)", text[at + 1 : end].strip()))
    start = text.index("{", end)
    return Function(names, tuple(statements(text[start + 1 : matching(text, start)])))


def matching(text: str, at: int) -> int:
    """The place of the bracket that closes the one at *at*."""
    depth, place = 0, at
    while place < len(text):
        char = text[place]
        if char == '"':
            place = _after_string(text, place)
            continue
        depth += (char in "([{") - (char in ")]}")
        if not depth:
            return place
        place += 1
    raise ValueError(text[at : at + 80])


def _after_string(text: str, at: int) -> int:
    match = re.compile(r'"(?:\\.|[^"\\])*"').match(text, at)
    assert match is not None, text[at : at + 80]
    return match.end()


def statements(text: str) -> list[Statement]:
    found: list[Statement] = []
    at = 0
    while True:
        at = _skip(text, at)
        if at >= len(text):
            return found
        some, at = _statement(text, at)
        found += some


def _skip(text: str, at: int) -> int:
    while at < len(text) and (text[at].isspace() or text[at] == ";"):
        at += 1
    return at


_HEAD = re.compile(
    r"(if|for|while|switch)\s*(?=\()|(else\b)|(case\b[^:]*(?:::[^:]*)*:(?!:)|default\s*:"
    r"|try\b|catch\s*\([^)]*\))"  # what is tried and what is done instead: both are
)


def _statement(text: str, at: int) -> tuple[list[Statement], int]:
    if text[at] == "{":
        end = matching(text, at)
        return statements(text[at + 1 : end]), end + 1
    head = _HEAD.match(text, at)
    if head and head[3]:
        return [], head.end()
    if head and head[1]:
        return _compound(text, head)
    end = _end(text, at)
    words = text[at:end].strip()
    if words.startswith("throw"):
        return [Statement("throw", words)], end + 1
    if re.match(r"(return|continue|break)\b", words):
        return [Statement("leave", words)], end + 1
    return [Statement("do", words)], end + 1


def _compound(text: str, head: re.Match[str]) -> tuple[list[Statement], int]:
    close = matching(text, head.end())
    condition = text[head.end() + 1 : close]
    inside, at = _statement(text, _skip_blanks(text, close + 1))
    if head[1] != "if":
        counted = head[1] == "for" and condition.count(";") == 2
        kind = "for" if counted else "opaque"
        return [Statement(kind, condition, tuple(inside))], at
    other: list[Statement] = []
    further = _HEAD.match(text, _skip_blanks(text, at))
    if further and further[2]:
        other, at = _statement(text, _skip_blanks(text, further.end()))
    found = [Statement("if", condition, tuple(inside), tuple(other))]
    if ";" in condition:  # if (const auto x = …; x > 0)
        first, _, condition = condition.rpartition(";")
        found = [Statement("do", first), Statement("if", condition, tuple(inside), tuple(other))]
    return found, at


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _end(text: str, at: int) -> int:
    """The place of the semicolon that ends the statement at *at*."""
    while at < len(text) and text[at] != ";":
        if text[at] == '"':
            at = _after_string(text, at)
        elif text[at] in "([{":
            at = matching(text, at) + 1
        else:
            at += 1
    return at
