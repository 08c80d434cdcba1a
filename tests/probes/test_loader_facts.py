"""The facts about llama.cpp's loader: well formed, and evaluated as C++ would."""

import ast
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpdb.probes.gguf_contents import Array
from modpdb.probes.loader_facts import (
    UNKNOWN,
    Expressions,
    architecture_facts,
    facts_source,
    known_architectures,
)

FUNCTIONS = {"key", "key_at", "has", "has_key", "is_array", "length", "min", "max"}


def expressions(definitions=None, metadata=None, names=()):
    return Expressions("arch", definitions or {}, metadata or {}, set(names))


@pytest.mark.parametrize("arch", sorted(known_architectures()))
def test_every_expression_can_be_evaluated_and_knows_its_names(arch):
    facts = architecture_facts(arch)
    texts = [text for row in facts.tensors for text in (*row.shape, row.flags, row.condition)]
    texts += [row.count for row in facts.tensors if row.count]
    texts += [each for row in facts.tensors for each in re.findall(r"\{(.+?)\}", row.name)]
    texts += [condition for _, condition in facts.keys] + list(facts.refused)
    empty = Expressions(arch, facts.definitions, {}, set())
    for text in texts:
        named = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        assert named <= facts.definitions.keys() | FUNCTIONS | {"i", "unknown"}, text
        empty.value(text, 0)
        empty.mentioned(text, 0)


def test_every_architecture_asks_for_tensors_and_keys():
    for arch in known_architectures():
        facts = architecture_facts(arch)
        assert ("block_count", "True") in facts.keys, arch
        assert len(facts.tensors) >= 8, arch
        assert all(row.flags.isdigit() or row.flags for row in facts.tensors)


def test_few_rows_could_not_be_followed():
    rows = [row for arch in known_architectures() for row in architecture_facts(arch).tensors]
    unknown = [row for row in rows if "unknown" in (row.name, row.flags, row.condition)]
    assert len(unknown) < len(rows) / 50


def test_an_architecture_that_is_not_there_has_no_facts():
    assert architecture_facts("made-up") is None
    assert architecture_facts("clip") is None
    assert "llama-cpp-python" in facts_source()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("7 // 2", 3),
        ("unknown", UNKNOWN),
        ("unknown + 1", UNKNOWN),
        ("unknown and False", False),
        ("unknown or True", True),
        ("unknown or False", UNKNOWN),
        ("not unknown", UNKNOWN),
        ("2 if unknown else 2", 2),
        ("2 if unknown else 3", UNKNOWN),
        ("key('absent')", UNKNOWN),
        ("key('absent', 5)", 5),
        ("key('size') == 4", True),
        ("key('list')", UNKNOWN),
        ("key_at('list', 1)", 6),
        ("key_at('size', 1)", 4),
        ("key_at('list', 9)", UNKNOWN),
        ("key_at('long', 1)", UNKNOWN),
        ("length('list')", 3),
        ("length('size')", UNKNOWN),
        ("is_array('list')", True),
        ("has_key('size')", True),
        ("has_key('absent')", False),
        ("has('blk.{i}.x')", True),
        ("has('blk.{i + 1}.x')", False),
        ("has('blk.{unknown}.x')", UNKNOWN),
        ("doubled[3]", 6),
        ("doubled", 0),
        ("endless", UNKNOWN),
        ("1 // 0", UNKNOWN),
        ("key('word') * 3", UNKNOWN),
        ("key('word') < 3", UNKNOWN),
        ("key('word') in ('yes', 'no')", True),
        ("max(2, key('size'))", 4),
        ("key('tokenizer.kind')", "bpe"),
    ],
)
def test_values(text, value):
    metadata = {
        "arch.size": 4,
        "arch.list": Array("u32", 3, (5, 6, 7)),
        "arch.long": Array("u32", 3, (5,)),
        "arch.word": "yes",
        "tokenizer.kind": "bpe",
    }
    definitions = {"doubled": "i * 2", "endless": "endless + 1"}
    found = expressions(definitions, metadata, ["blk.0.x"]).value(text, 0)
    assert found is value if value is UNKNOWN else found == value


def test_a_block_s_number_outside_of_a_loop_is_not_known():
    assert expressions().value("i") is UNKNOWN
    assert expressions().filled("blk.{i}.x") is None
    assert expressions().filled("blk.{i}.x", 3) == "blk.3.x"


def test_what_a_value_is_worked_out_from_is_what_was_used():
    metadata = {"arch.head": 2, "arch.size": 8}
    definitions = {"size": "key('size')", "length": "key('length', size // key('head'))"}
    assert expressions(definitions, metadata).mentioned("length") == ["arch.size", "arch.head"]
    metadata["arch.length"] = 4
    assert expressions(definitions, metadata).mentioned("length") == ["arch.length"]


_plain = st.one_of(
    st.integers(), st.floats(), st.text("a.é\0", max_size=4), st.booleans(), st.none(), st.binary(),
    st.builds(Array, st.just("i32"), st.integers(0, 5), st.tuples(st.integers(), st.just("a"))),
)  # fmt: skip


@given(st.sampled_from(sorted(known_architectures())), st.data())
def test_metadata_of_any_type_breaks_nothing(arch, data):
    facts = architecture_facts(arch)
    used = sorted(
        {key for row in facts.definitions.values() for key in re.findall(r"'([\w.]+)'", row)}
    )
    keys = data.draw(st.lists(st.sampled_from(used), max_size=8))
    empty = Expressions(arch, facts.definitions, {}, set())
    metadata = {empty.full_key(key): data.draw(_plain) for key in keys}
    found = Expressions(arch, facts.definitions, metadata, set())
    for row in facts.tensors[:20]:
        for text in (*row.shape, row.condition, row.flags):
            assert type(found.value(text, 0)) in (int, float, bool, str, type(UNKNOWN))
