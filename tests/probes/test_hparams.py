"""A config as a tree, and which of its words the converter's code has."""

import json
from pathlib import Path
from typing import Any

import pytest

from modpdb.probes.files import CheckpointError
from modpdb.probes.hparams import folder_hparams, hparams_tree, words_of


class Base:
    hparams: dict[str, Any]

    def find(self, keys: list[str]) -> Any:
        return next(self.hparams[key] for key in keys if key in self.hparams)

    def first(self) -> Any:
        return self.find(["n_layer", "num_layers"])

    @staticmethod
    def static(config: dict[str, Any]) -> Any:
        return config.get("hidden_size")

    @property
    def computed(self) -> Any:
        raise AssertionError("run")


class Sub(Base):
    def first(self) -> Any:
        inner = [self.hparams[key] for key in ("n_layer", "rope_theta")]
        return inner, (lambda: self.hparams["in_lambda"])(), {"of": self.find(keys=[])}

    @classmethod
    def of(cls, hparams: dict[str, Any]) -> Any:
        return hparams["nested_key"], f"{hparams}.part", hparams in ({"in_a_set", "x"},)


def test_words_are_those_that_the_code_loads() -> None:
    words = words_of(Sub)
    assert words["n_layer"] == "Sub.first"
    assert words["num_layers"] == "Base.first"
    assert words["hidden_size"] == "Base.static"
    assert words["in_lambda"] == words["rope_theta"] == "Sub.first"
    assert words["nested_key"] == "Sub.of"
    assert "keys" not in words and words["of"] == "Sub.first"


def test_a_tree() -> None:
    config = {"n_layer": 4, "inner": {"rope_theta": 1e4, "deep": {"x": None}}, "empty": {}, 3: 4}
    found = hparams_tree(config, "here", Sub)
    assert [(each.path, each.level, each.value, each.nested) for each in found.keys] == [
        ("n_layer", 0, 4, False),
        ("inner", 0, None, True),
        ("inner.rope_theta", 1, 1e4, False),
        ("inner.deep", 1, None, True),
        ("inner.deep.x", 2, None, False),
        ("empty", 0, {}, False),
        ("3", 0, 4, False),
    ]
    assert (found.class_name, found.keys[2].named_in) == ("Sub", "Sub.first")
    assert hparams_tree(config, "here").keys[0].named_in == ""


def test_a_config_that_holds_itself_ends() -> None:
    config: dict[str, Any] = {"a": 1}
    config["self"] = config
    assert len(hparams_tree(config, "").keys) == 2 * 9
    wide = {str(n): {str(m): 0 for m in range(100)} for n in range(100)}
    found = hparams_tree(wide, "")
    assert len(found.keys) + found.left_out == 100 * 101 and found.left_out > 0


def test_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        folder_hparams(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="the config is a JSON list, not an object"):
        folder_hparams(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"a": {"b": [1, 2]}}))
    assert [each.path for each in folder_hparams(tmp_path).keys] == ["a", "a.b"]
