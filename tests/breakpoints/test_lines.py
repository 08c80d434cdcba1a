"""Lines that can stop, and what is said of those that cannot."""

import importlib.util
import py_compile
import sys
from pathlib import Path

import pytest

from modpdb.breakpoints.lines import SourceLines, executable_lines, nearest, own_lines, walk

SOURCE = '''\
"""A module."""
import os

# a comment
text = """one
two
three"""
@staticmethod
def function(n):
    """Docs."""
    global text
    if n:
        return [
            k
            for k in range(n)
        ]
    else:
        x = f"""
        {n}
        """
    return (
        x

    )

def generator():
    yield 1
one = lambda: 1
'''


@pytest.fixture
def source(tmp_path: Path) -> SourceLines:
    file = tmp_path / "some_file.py"
    file.write_text(SOURCE)
    return SourceLines.read(str(file))


def traced(source: SourceLines) -> set[int]:
    """The lines at which the program really raises line events."""
    lines = set()

    def trace(frame, event, arg):
        if frame.f_code.co_filename != source.file:
            return None
        if event == "line":
            lines.add(frame.f_lineno)
        return trace

    names: dict = {}
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        exec(source.code, names)
        names["function"](2)
        names["function"](0)
        list(names["generator"]())
        names["one"]()
    finally:
        sys.settrace(before)
    return lines


def test_the_lines_that_can_stop_are_those_that_do(source: SourceLines) -> None:
    assert executable_lines(source.code) == traced(source)


def test_a_def_is_no_line_of_its_function(source: SourceLines) -> None:
    by_name = {each.co_name: each for each in walk(source.code)}
    assert own_lines(by_name["generator"]) == {27}
    assert own_lines(by_name["<lambda>"]) == {28}
    assert not own_lines(by_name["function"]) & {8, 9, 10, 11}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (3, "is blank; the nearest line that can stop is 2"),
        (4, "is a comment; the nearest line that can stop is 5"),
        (6, "is inside the string that begins at line 5; the nearest line that can stop is 5"),
        (10, "has no code that can stop; the nearest line that can stop is 9"),
        (11, "has no code that can stop; the nearest line that can stop is 12"),
        (17, "has no code that can stop; the nearest line that can stop is 18"),
        (
            23,
            "is inside the statement that begins at line 21; the nearest line that can stop is 22",
        ),
        (99, "does not exist: the file has 28 lines; the nearest line that can stop is 28"),
        (0, "does not exist: the file has 28 lines; the nearest line that can stop is 1"),
    ],
)
def test_why_not_and_where_instead(source: SourceLines, line: int, said: str) -> None:
    told = source.why_not(line)
    assert told is not None and told.startswith(f"some_file.py:{line} ")
    assert told == f"some_file.py:{line} {said}"


def test_lines_that_can_are_left_alone(source: SourceLines) -> None:
    assert source.why_not(2) is None and source.why_not(14) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GGUF\x03\0\0\0", r"model\.gguf is not Python that compiles: .*null bytes"),
        (b"# Title\nsome words\n", r"model\.gguf is not Python that compiles: invalid syntax \(line 2\)"),
        (b"x = '\xe9'\n", r"model\.gguf is not Python that compiles: .*utf-8"),
    ],
)  # fmt: skip
def test_what_is_not_python(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        SourceLines.read(str(file))


def test_an_empty_file_has_no_line(tmp_path: Path) -> None:
    file = tmp_path / "empty.py"
    file.write_text("# nothing\n")
    assert SourceLines.read(str(file)).why_not(1) is not None


def test_the_nearest_line() -> None:
    assert nearest({1, 4, 6}, 5) == 6 and nearest({1, 4}, 99) == 4 and nearest([], 1) is None


def test_what_lies_compiled_beside_a_file_is_not_believed(tmp_path: Path) -> None:
    """It may have come with a checkpoint."""
    file = tmp_path / "modeling.py"
    file.write_text("# a comment\n\nx = 1\n")
    planted = tmp_path / "planted.py"
    planted.write_text("x = 1\ny = 2\nz = 3\n")
    py_compile.compile(
        str(planted),
        importlib.util.cache_from_source(str(file)),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        doraise=True,
    )
    assert "is blank" in (SourceLines.read(str(file)).why_not(2) or "")
