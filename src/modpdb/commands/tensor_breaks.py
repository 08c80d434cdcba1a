"""`break-tensor` and `b @GLOB`: stop where a tensor of that name is handled."""

from __future__ import annotations

import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from modpdb.breakpoints.books import NamedBreakpoint, named_breakpoints
from modpdb.commands.registry import Arguments, UsageError, command
from modpdb.commands.targets import frames_outwards
from modpdb.presets import GENERIC
from modpdb.presets.tensors import Sighting, TensorPlaces
from modpdb.views import import_rich
from modpdb.views.text import printable

if TYPE_CHECKING:
    from modpdb.debugger import ModPdb
    from modpdb.presets.stages import Stages
    from modpdb.probes.tensor_names import Meets, TensorNames

_COMPLETED = 20_000  # names that Tab offers


def _complete_names(dbg: ModPdb, text: str) -> Iterator[str]:
    names = names_here(dbg)
    if names is not None:
        yield from islice(names.checkpoint, _COMPLETED)
        yield from islice((gguf for gguf, _ in names.predicted), _COMPLETED)


@command("break-tensor", options={"--temporary": ""}, needs_frame=False, completes=_complete_names)
def break_tensor(dbg: ModPdb, arguments: Arguments) -> None:
    """break-tensor [--temporary] GLOB[, CONDITION]

    Stop where a tensor of that name is first handled or written, once for each tensor.

    In the conversion of a script that a preset knows, `b @GLOB` and `tbreak @GLOB` are short for
    it; elsewhere these mean modules.

    In llama.cpp's conversions GLOB is matched against checkpoint names
    (model.layers.0.self_attn.q_proj.weight; of a LoRA adapter: those of the base model), which
    stop where the converter renames, reshapes or repacks the tensor, and against GGUF names
    (blk.0.attn_q*), which stop where it is written. Without a wildcard .weight and .bias may be
    left out. As soon as the checkpoint is known it says which tensors it will meet.

    In other scripts: at safetensors' load_file and save_file, torch.save, GGUFWriter.add_tensor,
    and where a module takes its parameters in load_state_dict (transformers: from_pretrained).
    Not seen: safe_open().get_tensor(), which is Rust, names in what torch.load reads, and
    reading a dict.
    """
    if not arguments.target:
        raise UsageError("break-tensor needs a name or glob: break-tensor GLOB[, CONDITION]")
    temporary = bool(arguments.options.get("--temporary"))
    dbg.set_breakpoint(arguments.target, temporary, partial(break_at_tensor, dbg))


def at_means_tensors(dbg: ModPdb) -> bool:
    """Whether `b @GLOB` is about tensors: under the preset of a converter; else about modules."""
    preset = dbg.stages.preset if dbg.stages is not None else None
    return preset is not None and preset.name != GENERIC and bool(preset.tensors)


def break_at_tensor(dbg: ModPdb, glob: str, temporary: bool, condition: str | None) -> None:
    """Set the breakpoint, and say which tensors it will meet where that is known."""
    stages = dbg.stages
    if stages is None or not stages.preset.tensors:
        which = f"preset {stages.preset.name} does not say" if stages else "no preset is on"
        dbg.error(f"where the script handles tensors is not known: {which}")
        return
    breakpoint = TensorBreakpoint(dbg, stages, glob, temporary, condition)
    dbg.add_breakpoint(breakpoint)
    names = names_here(dbg)
    if names is not None:
        breakpoint.learn(names)
    elif stages.preset.known_at:
        dbg.message(f"Breakpoint {breakpoint.number} pending: the checkpoint is not known yet")
    else:
        dbg.message(f"Breakpoint {breakpoint.number} at @{glob}, {breakpoint.where()}")


class TensorBreakpoint(NamedBreakpoint):
    """Stops before a tensor of that name is handled: once for each tensor and side of it.

    ``meets`` is None until the names of the conversion are known.
    """

    always_asked = True

    def __init__(
        self, dbg: ModPdb, stages: Stages, glob: str, temporary: bool, condition: str | None
    ) -> None:
        from modpdb.probes.tensor_names import name_matcher

        self.places = TensorPlaces(None, f"@{glob}", tensors=stages.preset.tensors)
        super().__init__(self.places, temporary, condition)
        self.glob = glob
        self.meets: Meets | None = None
        self._dbg = dbg
        self._stages = stages
        self._wanted = name_matcher(glob)
        self._checkpoint: frozenset[str] | None = None
        self._met: set[tuple[str, str]] = set()
        self._from_the_start = False
        self._failed = False
        if stages.preset.known_at:
            told = stages.stages[stages.preset.known_at].passed
            told.append(self._begin)
            self.when_deleted.append(lambda: told.remove(self._begin))

    def setting_line(self) -> str:
        condition = f", {self.cond}" if self.cond else ""
        if at_means_tensors(self._dbg):
            return f"{'tbreak' if self.temporary else 'b'} @{self.glob}{condition}"
        return f"break-tensor {'--temporary ' * self.temporary}{self.glob}{condition}"

    def reached(self, frame: types.FrameType, complain: Callable[[str], None]) -> bool:
        said = self._guarded(lambda: self._first_meeting(frame), complain)
        if not said or not super().reached(frame, complain):
            return False
        self._stages.said.append(said)
        return True

    def _first_meeting(self, frame: types.FrameType) -> str:
        """What is to be said of the tensors that *frame* is about to handle; "" for none that
        is wanted and was not met before."""
        said = ""
        for sighting in self.places.sightings(frame):
            side, says = sighting.spec.side, sighting.spec.says
            new = [name for name in self._meant(sighting) if (side, name) not in self._met]
            self._met.update((side, name) for name in new)
            if new and not said:
                more = f" (with {len(new) - 1} more)" if len(new) > 1 else ""
                said = printable(f"tensor {new[0]}{more} {says}")
        return said

    def _meant(self, sighting: Sighting) -> list[str]:
        """A name that only may be there counts if the checkpoint has it, as far as is known."""
        known = self._checkpoint
        also = (name for name in sighting.also if known is None or name in known)
        return [name for name in (*sighting.names, *also) if self._wanted(name)]

    def _begin(self, frame: types.FrameType) -> None:
        """A conversion begins, whose tensors are now known."""

        def begin() -> None:
            self._met.clear()
            self._from_the_start = True
            names = _names_in([each.f_locals for each, _ in traceback.walk_stack(frame)])
            if names is not None:
                self.learn(names)

        self._guarded(begin, self._dbg.error)

    def learn(self, names: TensorNames) -> None:
        """Say which of *names* it will meet, unless that was said before."""
        from modpdb.probes.tensor_names import meets

        import_rich()
        from modpdb.views.tensor_names import tensors_met

        before, found = self.meets, meets(names, self.glob)
        self.meets, self._checkpoint = found, frozenset(names.checkpoint)
        if before is None or before.names != found.names:
            self._dbg.show(tensors_met(f"Breakpoint {self.number} at @{self.glob}", found))

    def _guarded(self, look: Callable[[], Any], complain: Callable[[str], None]) -> Any:
        """What *look* gives; nothing that goes wrong in it is raised into the script."""
        try:
            return look()
        except KeyboardInterrupt:
            raise  # Ctrl-C came just now: it is meant for the script
        except BaseException as error:
            if not self._failed:
                self._failed = True
                said = traceback.format_exception_only(error)[-1].strip()
                complain(f"{self}: {said} (said once)")
            return None

    def _listed(self, head: str, width: int) -> list[str]:
        return [f"{head}  {self.where()}"]

    def where(self) -> str:
        import_rich()
        from modpdb.views.tensor_names import in_words

        if self.meets is not None:
            return in_words(self.meets)
        if self._stages.preset.known_at:
            return "pending: the checkpoint is not known yet"
        return "where it can be seen (help break-tensor)"

    def missed(self) -> str | None:
        met = {name for _, name in self._met}
        if not met:
            since = "" if self._from_the_start else " after it was set"
            return f"{self}: no tensor of that name came{since}"
        if self.meets is None or not self._from_the_start:
            return None
        expected = [*self.meets.checkpoint, *(gguf for gguf, _ in self.meets.predicted)]
        never = [name for name in expected if name not in met]
        if not never:
            return None
        return f"{self}: {len(never)} of {len(expected)} tensors never came, such as {never[0]}"


def never_met() -> list[str]:
    """A sentence for each breakpoint whose tensors or modules did not all come."""
    return [printable(said) for each in named_breakpoints() if (said := each.missed())]


def names_here(dbg: ModPdb) -> TensorNames | None:
    """The names of the conversion at hand; None where there is none, or its checkpoint cannot be
    read."""
    if dbg.curframe is None:
        return None
    return _names_in([variables for _, variables in frames_outwards(dbg)])


def _names_in(frames: list[Mapping[str, Any]]) -> TensorNames | None:
    """The names of the conversion that *frames*, innermost first, are at; None where there is
    none, or its checkpoint cannot be read."""
    from modpdb.probes.checkpoints import CheckpointError
    from modpdb.probes.conversion import find_conversion
    from modpdb.probes.tensor_names import of_adapter, tensor_names

    conversion = find_conversion(frames)
    if conversion is None:
        return None
    try:
        names = tensor_names(conversion)
    except CheckpointError:
        return None
    adapters = (variables.get("lora_model") for variables in frames)
    adapter = next((found for found in adapters if type(found) is dict), None)
    return names if adapter is None else of_adapter(names, adapter)
