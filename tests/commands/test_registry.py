"""Options come before the target; what is wrong with them is one sentence."""

import pytest

from modpdb.commands.registry import _OWN, COMMANDS, Command, UsageError, load_commands

MODULES = Command(
    "modules", lambda dbg, arguments: None, options={"-d": "N", "-t": "TYPE", "--unfold": ""}
)


def test_options_then_target() -> None:
    parsed = MODULES.parse("-d 2 --unfold -t=Linear  model.layers[0] -d")
    assert parsed.options == {"-d": "2", "--unfold": True, "-t": "Linear"}
    assert parsed.target == "model.layers[0] -d"
    assert parsed.number("-d") == 2 and parsed.number("-t0") is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("--depth 2", "modules has no option --depth; it takes -d N, -t TYPE, --unfold"),
        ("-d", "-d needs a value: -d N"),
        ("--unfold=yes x", "--unfold takes no value"),
    ],
)
def test_wrong_options(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match="^" + sentence.replace("(", r"\(") + "$"):
        MODULES.parse(text)


def test_a_number_is_checked() -> None:
    with pytest.raises(UsageError, match="-d takes a whole number, not 'x'"):
        MODULES.parse("-d x").number("-d")


def test_a_negative_number_is_no_option() -> None:
    assert MODULES.parse("-1 + x").target == "-1 + x"


def test_each_module_registers_what_it_is_said_to() -> None:
    load_commands()
    for module, names in _OWN.items():
        for name in names:
            command = COMMANDS[name]
            assert command.function.__module__ == f"modpdb.commands.{module}"
            assert name in (command.name, *command.aliases)
        assert set(names) == {n for name in names for n in (name, *COMMANDS[name].aliases)}
