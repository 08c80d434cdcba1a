"""`KeyError: 'image_mean'`: what a multimodal projector's converter reads beside the config."""

from __future__ import annotations

import shlex
from pathlib import Path

from modpdb.probes.checkpoints import read_checkpoint
from modpdb.probes.conversion import Conversion
from modpdb.probes.explanations.explanation import (
    Caught,
    Cause,
    Explanation,
    Row,
    Step,
    Table,
    arguments,
    held,
    raised,
)
from modpdb.probes.files import CheckpointError
from modpdb.probes.hparams import folder_hparams

_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
# OpenAI's CLIP and Google's SigLIP, as transformers' OPENAI_CLIP_MEAN and IMAGENET_STANDARD_MEAN.
_KNOWN = {
    "image_mean": ("[0.48145466, 0.4578275, 0.40821073]", "[0.5, 0.5, 0.5]"),
    "image_std": ("[0.26862954, 0.26130258, 0.27577711]", "[0.5, 0.5, 0.5]"),
}


def preprocessor_key(caught: Caught) -> Explanation | None:
    """A key that the image preprocessor's config lacks."""
    conversion = caught.conversion
    key = next(iter(arguments(caught.error)), None)
    if conversion is None or not raised(caught, KeyError) or type(key) is not str:
        return None
    config = held(conversion.model, "preprocessor_config")
    if type(config) is not dict or key in config or conversion.dir_model is None:
        return None
    if caught.frames[0].function != "set_gguf_parameters" or (conversion.hparams or {}).get(key):
        return None
    folder = conversion.dir_model
    rows, found = _files(folder, key)
    says = f"the image preprocessor's config has no {key}, which {caught.frames[0].place} asks for"
    if found:
        cause = Cause(f"it is there under another key, where the converter does not look: {found}")
    elif any("not there" not in row.words[0] for row in rows):
        cause = Cause("the preprocessor's files are there and do not have it")
    else:
        cause = Cause(f"{folder} has none of the preprocessor's files", guess=False)
    steps = [
        Step(
            "copy it from the original (REPO: its id)",
            (f"hf download REPO {_FILES[0]} --local-dir {shlex.quote(str(folder))}",),
        )
    ]
    if key in _KNOWN:
        clip, siglip = _KNOWN[key]
        steps.append(
            Step(
                f"or write {_FILES[0]}; a guess: SigLIP's encoders have these, CLIP's {clip}",
                (f'{{"image_mean": {_KNOWN["image_mean"][1]}, "image_std": {siglip}}}',),
            )
        )
    tables = [Table("where it is looked for", tuple(rows), brief=True), *_filtered(conversion)]
    return Explanation(
        "preprocessor", says, (cause,), tuple(tables), tuple(steps), caught.frames[0].place
    )


def _files(folder: Path, key: str) -> tuple[list[Row], str]:
    """Each file, and where the key stands in one of them."""
    rows, where = [], ""
    for file in _FILES[:2]:
        path = folder / file
        if not path.exists():
            rows.append(Row(file, ("not there",)))
            continue
        try:
            keys = folder_hparams(path).keys
        except CheckpointError as error:
            rows.append(Row(file, (str(error),)))
            continue
        same = next((each.path for each in keys if each.key == key), "")
        where = where or (f"{file}: {same}" if same else "")
        rows.append(Row(file, (f"has {same}" if same else f"no {key} among its {len(keys)} keys",)))
    return rows, where


def _filtered(conversion: Conversion) -> list[Table]:
    """What the class's filter_tensors kept of the checkpoint and what it dropped."""
    kept = held(conversion.model, "model_tensors")
    if type(kept) is not dict or conversion.dir_model is None:
        return []
    try:
        names = [each.name for each in read_checkpoint(conversion.dir_model).tensors]
    except CheckpointError:
        return []
    rows = [Row(name, ("kept",)) for name in names if name in kept]
    rows += [Row(name, ("dropped, or renamed",)) for name in names if name not in kept]
    return [Table(f"filter_tensors kept {len(kept):,} of {len(names):,} tensors", tuple(rows))]
