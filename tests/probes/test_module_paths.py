"""Paths of modules by identity."""

import gc

import torch

from modpdb.probes.module_paths import ModulePaths


def model() -> torch.nn.Sequential:
    layer = torch.nn.Linear(2, 2)
    return torch.nn.Sequential(layer, torch.nn.Sequential(torch.nn.ReLU(), layer))


def test_every_module_has_its_first_path() -> None:
    paths, root = ModulePaths(), model()
    paths.learn(root)
    assert [paths.path(each) for each in (root, root[0], root[1], root[1][0], root[1][1])] == [
        "",
        "0",
        "1",
        "1.0",
        "0",
    ]
    assert paths.model(root[1][0]) is root
    assert paths.path(torch.nn.ReLU()) is None


def test_the_model_last_learned_counts() -> None:
    paths, root = ModulePaths(), model()
    paths.learn(root)
    wrapped = torch.nn.Sequential(root)
    paths.learn(wrapped)
    assert paths.path(root[1]) == "0.1"
    assert paths.model(root[1]) is wrapped


def test_no_model_is_kept_alive() -> None:
    paths, root = ModulePaths(), model()
    paths.learn(root)
    inner = root[1]
    del root
    gc.collect()
    assert paths.model(inner) is None
    assert paths.path(inner) == "1"


def test_whether_a_module_still_stands_where_it_did() -> None:
    paths, root = ModulePaths(), model()
    paths.learn(root)
    inner, shared = root[1], root[0]
    assert all(map(paths.still_stands, (root, inner, inner[0], shared)))
    root.moved = inner
    del root._modules["1"]
    assert not paths.still_stands(inner) and not paths.still_stands(inner[0])
    assert paths.still_stands(shared) and not paths.still_stands(torch.nn.ReLU())


def test_those_that_are_gone_are_forgotten() -> None:
    paths = ModulePaths()
    for _ in range(1_500):
        paths.learn(torch.nn.Identity())
    assert len(paths._found) < 1_100
