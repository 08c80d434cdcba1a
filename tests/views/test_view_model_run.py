"""What `run-model` prints, at the widths that people use."""

import io
from dataclasses import replace

import pytest

from modpdb.probes.model_run import ModelRun, Next, Token
from modpdb.views.console import print_to
from modpdb.views.model_run import model_run

TOKENS = tuple(Token(number, f"▁w{number}") for number in range(120))
RUN = ModelRun(
    "Gemma3ForCausalLM",
    148_200_000,
    "bf16",
    "cpu",
    False,
    "Hello\x1b[2J",
    False,
    TOKENS[:3],
    (),
    "logits",
    (1, 3, 384),
    "bf16",
    0,
    384,
    (Next(Token(7, "\x1b[31m"), 0.5321, 12.345678), Next(Token(12, None), 0.0000134, -1.5)),
    0.0123,
)


def printed(run: ModelRun) -> list[str]:
    file = io.StringIO()
    print_to(file, [model_run(run)], color=False)
    return file.getvalue().splitlines()


def test_a_run_in_lines() -> None:
    assert printed(RUN) == [
        "model    Gemma3ForCausalLM  148.2 M parameters · bf16",
        "prompt   'Hello\\x1b[2J'",
        "tokens   3: 0 ▁w0, 1 ▁w1, 2 ▁w2",
        "logits   [1, 3, 384] bf16",
        "next       53.2 %   7  \\x1b[31m  logit 12.35",
        "         0.0013 %  12            logit -1.5",
        "forward  12.3 ms",
    ]


@pytest.mark.parametrize("width", ["60", "80", "160"])
def test_a_long_prompt_shows_both_ends_and_fits(monkeypatch, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    lines = printed(replace(RUN, tokens=TOKENS))
    text = " ".join(" ".join(lines).split())
    assert "120: 0 ▁w0," in text and "47 ▁w47, … 24 more … 72 ▁w72," in text
    assert all(len(line) <= int(width) for line in lines)


def test_what_is_not_usual_is_said(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    odd = replace(
        RUN, training=True, device="cuda:0", is_default=True, bad=3, next=(), seconds=None
    )
    lines = printed(replace(odd, decoder=(Token(0, "<pad>"),)))
    assert lines[0].endswith("bf16 · cuda:0  in training mode")
    assert lines[1].endswith("  (the default)") and lines[3] == "decoder  1: 0 <pad>"
    assert lines[4].endswith(
        "bf16  3 of the last position's 384 are NaN or Inf: no next token can be told"
    )
    assert len(lines) == 5
    assert printed(replace(RUN, output="", shape=None))[3].startswith("output   no tensor among")
