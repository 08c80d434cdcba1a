"""One architecture: what its loader's functions read and make, gone through symbolically."""

import contextlib
import re
from collections.abc import Sequence
from typing import Any

from loader_cpp.expressions import (
    UNKNOWN,
    Node,
    NotUnderstood,
    names_in,
    parse,
    simple,
)
from loader_cpp.functions import (
    Function,
    Sources,
    Statement,
    matching,
    mentioned,
    statements,
)

# llama_model_loader's flags that decide what a file must hold.
FLAGS = {
    "TENSOR_NOT_REQUIRED": 1, "TENSOR_DUPLICATED": 2, "TENSOR_SKIP": 4,
    "TENSOR_SKIP_IF_VIRTUAL": 8, "TENSOR_ALLOW_RESHAPE": 16, "TENSOR_READ_LAZY": 32,
}  # fmt: skip
_CONSTANTS = {
    "true": "True", "false": "False", "arch": "",
    "NULL": "False", "nullptr": "False", "LLAMA_MAX_LAYERS": "512", "LLAMA_MAX_EXPERTS": "512",
    "ml.load_mtp": "False",  # as llama.cpp loads a model unless asked for more
    "hparams.vocab_only": "False",
    "n_vocab": "n_vocab", "n_token_types": "n_token_types",
    "LLAMA_ROPE_SCALING_TYPE_NONE": "'none'", "LLAMA_ROPE_SCALING_TYPE_LINEAR": "'linear'",
    "LLAMA_ROPE_SCALING_TYPE_YARN": "'yarn'", "LLAMA_ROPE_SCALING_TYPE_LONGROPE": "'longrope'",
    **{name: str(value) for name, value in FLAGS.items()},
    **{f"llama_model_loader::{name}": str(value) for name, value in FLAGS.items()},
}  # fmt: skip
_MLA = "(n_embd_head_k_mla_impl != 0 and n_embd_head_v_mla_impl != 0)"
# What llama_hparams's functions give: by index, and without one.
_FUNCTIONS = {
    "n_head": ("n_head_arr[{}]", "n_head"), "n_head_kv": ("n_head_kv_arr[{}]", "n_head_kv"),
    "n_ff": ("n_ff_arr[{}]", "n_ff"), "n_ff_exp": ("n_ff_exp_arr[{}]", "n_ff_exp"),
    "n_expert_used": ("n_expert_used_arr[{}]", "n_expert_used_arr[0]"),
    "n_embd_head_k": ("head_k[{}]", "n_embd_head_k"),
    "n_embd_head_v": ("head_v[{}]", "n_embd_head_v"),
    "n_embd_k_gqa": ("k_gqa[{}]", "n_embd_k_gqa"), "n_embd_v_gqa": ("v_gqa[{}]", "n_embd_v_gqa"),
    "n_rot": ("rot[{}]", "n_rot"), "is_recr": ("is_recr_impl[{}]", ""),
    "is_swa": ("is_swa_impl[{}]", ""), "n_layer": ("", "n_layer"),
    "n_embd_out": ("", "(n_embd_out_impl if n_embd_out_impl > 0 else n_embd)"),
    "is_mla": ("", _MLA),
    "n_embd_head_k_mla": ("", f"(n_embd_head_k_mla_impl if {_MLA} else n_embd_head_k)"),
    "n_embd_head_v_mla": ("", f"(n_embd_head_v_mla_impl if {_MLA} else n_embd_head_v)"),
    "n_gqa": ("", "(n_head // n_head_kv if n_head_kv else 0)"),
}  # fmt: skip
# By these names; `i` is a block.
_DERIVED = {
    "n_layer": "n_layer_all - n_layer_nextn",
    "n_head": "n_head_arr[0]", "n_head_kv": "n_head_kv_arr[0]", "n_ff": "n_ff_arr[0]",
    "n_ff_exp": "n_ff_exp_arr[0]",
    "head_k": "n_embd_head_k_swa if is_swa_impl[i] else n_embd_head_k_full",
    "head_v": "n_embd_head_v_swa if is_swa_impl[i] else n_embd_head_v_full",
    "rot": "n_rot_swa if is_swa_impl[i] else n_rot_full",
    "n_embd_head_k": "head_k[0]", "n_embd_head_v": "head_v[0]", "n_rot": "rot[0]",
    "k_gqa": "head_k[i] * n_head_kv_arr[i]", "v_gqa": "head_v[i] * n_head_kv_arr[i]",
    "n_embd_k_gqa": "k_gqa[0]", "n_embd_v_gqa": "v_gqa[0]",
    "n_vocab": "length('tokenizer.ggml.tokens')",
    "n_token_types": "key('tokenizer.ggml.token_type_count', 0)",
}  # fmt: skip
# What probes/loader_facts.py knows without a definition.
_KNOWN = {
    "i", UNKNOWN, "key", "key_at", "has", "has_key", "is_array", "length", "min", "max",
}  # fmt: skip
_LOCAL_NAMES = {"n_embd_gqa": "n_embd_v_gqa"}
_ASSIGNED = re.compile(
    r"(?:[\w:<>,*& ]+?[ &*])?([\w.>-]+(?:\[[^\]]*\])?)\s*=(?!=)\s*(.+)", re.DOTALL
)
_PATTERN = "{0} == 0 or i % {0} {1}"


class Architecture:
    """What is read and made for one architecture, in rows of plain data.

    keys: [key, condition]; refused: conditions; tensors: [name, shape, flags, condition, count],
    the last two left out where there is no condition and it is made once; instead: the tensor
    that is taken where one is not there.
    """

    def __init__(self, sources: Sources, arch: str, owner: str) -> None:
        self.keys: list[list[Any]] = []
        self.refused: list[str] = []
        self.tensors: list[list[Any]] = []
        self.instead: dict[str, str] = {}
        self._sources = sources
        self._arch = arch
        self._owner = owner
        self._env: dict[str, str] = {}
        self._versions: dict[str, int] = {}
        self._read: dict[str, dict[str, int]] = {}  # of a definition: names it mentions, versions
        self._became: dict[tuple[str, int], int] = {}  # a branch's version: the one after both
        self._conditions: list[str] = []
        self._count = ""
        self._lambdas: dict[str, Function] = {}
        self._hparams = True
        self._run("llama_model_base", "load_hparams")
        self.definitions = _DERIVED | self._settled()
        self._hparams = False
        for name, _ in sources.locals:
            self._env[name] = _LOCAL_NAMES.get(name, name)
        self._seen: set[str] = set()
        self._run(owner, "load_arch_tensors")
        function = sources.function(owner, "load_arch_tensors")
        self.left_out = mentioned(function.body) - self._seen if function else {owner}

    def needed(self) -> dict[str, str]:
        """Of the definitions those that a row mentions, if only by another definition."""
        texts = [text for name, shape, *rest in self.tensors for text in (*shape, *rest)]
        texts += [each for row in self.tensors for each in re.findall(r"\{(.+?)\}", row[0])]
        texts += self.refused + [condition for _, condition in self.keys]
        rest = [name for text in texts for name in names_in(str(text) or "0")]
        found: dict[str, str] = {}
        while rest:
            name = rest.pop()
            if name not in found and name not in _KNOWN:
                found[name] = self.definitions.get(name, self._default(f"hparams.{name}"))
                rest += names_in(found[name])
        return found

    # -- statements ------------------------------------------------------------------------------

    def _run(self, owner: str, name: str) -> None:
        function = self._sources.function(owner, name)
        if function is not None:
            self._body(function.body)

    def _body(self, body: Sequence[Statement]) -> None:
        """A function's or loop's: what leaves it leaves what is after it conditional."""
        before = list(self._conditions)
        self._each(body)
        self._conditions = before

    def _each(self, body: Sequence[Statement]) -> str:
        """Goes through *body*; the condition under which it was left."""
        left = "False"
        for statement in body:
            now = self._one(statement)
            if now != "False":
                left = simple(f"({left}) or ({now})")
                self._conditions.append(simple(f"not ({now})"))
        return left

    def _one(self, statement: Statement) -> str:
        if statement.kind == "leave":
            if value := statement.text.removeprefix("return").strip():
                self._value(value)
            return "True"
        if statement.kind == "throw":
            self._refuse()
        elif statement.kind == "if":
            return self._if(statement)
        elif statement.kind == "for":
            self._for(statement)
        elif statement.kind == "opaque":
            self._opaque(statement.inside)
        else:
            self._do(statement.text)
        return "False"

    def _refuse(self, condition: str = "True") -> None:
        all_of = simple(" and ".join(f"({each})" for each in [*self._conditions, condition]))
        if UNKNOWN not in all_of and all_of != "True" and all_of != "False" and not self._count:
            self.refused.append(all_of)

    def _if(self, statement: Statement) -> str:
        test = self._value(statement.text)
        conditions, start = list(self._conditions), dict(self._env)
        lefts, ends, versions = [], [], []
        otherwise = simple(f"not ({test})")
        for condition, body in ((test, statement.inside), (otherwise, statement.other)):
            self._env = dict(start)
            self._conditions = [*conditions, condition]
            if condition == "False":
                lefts.append("False")
                if not self._hparams:
                    self._seen |= mentioned(body)
            else:
                lefts.append(simple(f"({condition}) and ({self._each(body)})"))
            ends.append(self._env)
            versions.append(dict(self._versions))
        self._conditions = conditions
        if test in ("True", "False"):
            self._env = ends[test == "False"]
        else:
            self._env = start
            for name in ends[0].keys() | ends[1].keys():
                one, other = (each.get(name, self._unset(name)) for each in ends)
                if one != other:
                    known = None not in (one, other) and UNKNOWN not in (test, one, other)
                    self._set(name, f"({one}) if ({test}) else ({other})" if known else UNKNOWN)
                    self._merged(_field(name), versions)
                elif one is not None:
                    self._env[name] = one
        return simple(f"({lefts[0]}) or ({lefts[1]})")

    def _unset(self, name: str) -> str | None:
        """What a field is before anything is read; of other names nothing."""
        return self._default(name) if name.startswith("hparams.") else None

    def _merged(self, field: str, versions: Sequence[dict[str, int]]) -> None:
        """What a branch read of *field* is what it is after both, where that branch was taken."""
        for each in versions:
            if field in each and field in self._versions:
                self._became[field, each[field]] = self._versions[field]

    def _latest(self, field: str, version: int) -> int:
        while (field, version) in self._became:
            version = self._became[field, version]
        return version

    def _for(self, statement: Statement) -> None:
        head = re.fullmatch(
            r"\s*\w+ (\w+) = (.+?);\s*\1 < (.+?);\s*(?:\+\+\1|\1\+\+)\s*", statement.text, re.DOTALL
        )
        if head is None or self._count:
            self._opaque(statement.inside)
            return
        first, count = self._value(head[2]), self._value(head[3])
        before, conditions = dict(self._env), list(self._conditions)
        self._env[head[1]] = "i"
        self._count = count
        if first != "0":
            self._conditions.append(f"i >= {first}" if first != UNKNOWN else UNKNOWN)
        self._each(statement.inside)
        self._count = ""
        self._conditions = conditions
        for name in list(self._env):
            scalar = not name.endswith("_impl") and not name.endswith("_arr")
            if scalar and self._env[name] != before.get(name, ""):
                self._env[name] = UNKNOWN

    def _opaque(self, body: Sequence[Statement]) -> None:
        """What is done under conditions that are not followed."""
        before, conditions = dict(self._env), list(self._conditions)
        self._conditions.append(UNKNOWN)
        self._each([each for each in body if each.kind != "leave"])
        self._conditions = conditions
        for name in list(self._env):
            if self._env[name] != before.get(name, ""):
                self._set(name, UNKNOWN)

    def _do(self, text: str) -> None:
        made = re.match(r"auto (\w+) = \[[&=]?[^\]]*\]\s*\(([^)]*)\)[^{]*\{", text)
        if made:
            names = tuple(re.findall(r"(\w+)\s*(?:,|$)", made[2]))
            inside = text[made.end() : matching(text, made.end() - 1)]
            self._lambdas[made[1]] = Function(names, tuple(statements(inside)))
            return
        if ";" in text and "create_tensor" in text:
            raise SystemExit(f"{self._arch}: statements were taken for one: {text}")
        constructed = re.fullmatch(r"std::string (\w+)\((\".*\")\)", text)
        if constructed:
            self._set(constructed[1], self._value(constructed[2]))
            return
        checked = re.fullmatch(r"GGML_ASSERT\((.*)\)", text, re.DOTALL)
        if checked:
            self._refuse(f"not ({self._value(checked[1])})")
            return
        assigned = _ASSIGNED.fullmatch(text)
        if assigned and not text.startswith(("create_", "ml.")):
            self._assign(assigned[1], assigned[2])
        else:
            changed = re.fullmatch(r"([\w.]+)\s*([-+*/|&])=(.*)", text, re.DOTALL)
            if changed:
                self._assign(changed[1], f"{changed[1]} {changed[2]} ({changed[3]})")
            elif counted := re.fullmatch(r"(?:\+\+|--)?([\w.]+)(?:\+\+|--)?", text):
                self._set(counted[1], UNKNOWN)
            else:
                self._value(text)

    def _assign(self, target: str, value: str) -> None:
        name, _, index = target.partition("[")
        found = self._value(value)
        if not index:
            self._set(name, found)
        elif self._count and self._env.get(index.rstrip("] ").strip()) == "i":
            where = [c for c in self._conditions if c != "True"] + [f"i < ({self._count})"]
            old = self._env.get(name, UNKNOWN)
            known = UNKNOWN not in (found, *where)
            test = " and ".join(f"({each})" for each in where)
            self._set(name, f"({found}) if {test} else ({old})" if known else UNKNOWN)
        else:
            self._set(name, UNKNOWN)

    def _set(self, name: str, value: str) -> None:
        value = simple(value)
        if len(value) > 600:
            value = UNKNOWN
        self._env[name] = value
        if name.startswith("hparams.") and self._hparams:
            field = _field(name)
            mentioned = {each: self._versions.get(each, 0) for each in _fields_in(value)}
            self._read[field] = mentioned | self._read.get(field, {})  # the oldest that was read
            self._versions[field] = self._versions.get(field, 0) + 1

    def _settled(self) -> dict[str, str]:
        """What the fields are in the end. A field whose value mentions one that was changed after
        that is not known."""
        found = {}
        for name, value in self._env.items():
            if not name.startswith("hparams."):
                continue
            field = _field(name)
            stale = any(
                self._versions.get(each, 0) != self._latest(each, version)
                for each, version in self._read.get(field, {}).items()
                if each in _fields_in(value)
            )
            found[field] = UNKNOWN if stale else value
        return found

    # -- values ----------------------------------------------------------------------------------

    def _value(self, text: str) -> str:
        """The Python expression of a C++ one, after all that it does."""
        try:
            node = parse(text)
        except NotUnderstood:
            for call in re.finditer(r"\bml\.get_(?:key|arr|key_or_arr|arr_n)\(", text):
                with contextlib.suppress(NotUnderstood, ValueError):
                    end = matching(text, call.end() - 1)
                    self._of(parse(text[call.start() : end + 1]))
            return UNKNOWN
        return simple(self._of(node))

    def _of(self, node: Node) -> str:
        if node.kind == "number":
            return node.value if not node.value.startswith("0x") else str(int(node.value, 16))
        if node.kind == "string":
            return repr(node.value[1:-1])
        if node.kind == "name":
            return self._named(node.value)
        if node.kind == "call":
            return self._called(node)
        if node.kind == "choice":
            return self._choice(node)
        parts = [self._of(each) for each in node.parts]
        if node.kind == "list" or (UNKNOWN in parts and node.kind in ("index", "unary")):
            return UNKNOWN
        if node.kind == "index":
            return self._indexed(node.value, parts[0])
        if node.kind == "unary":
            return {"!": f"(not ({parts[0]}))", "-": f"(-({parts[0]}))"}.get(node.value, UNKNOWN)
        return self._binary(node.value, parts)

    def _choice(self, node: Node) -> str:
        test = self._of(node.parts[0])
        arms = []
        for condition, arm in ((test, node.parts[1]), (f"not ({test})", node.parts[2])):
            self._conditions.append(simple(condition))
            arms.append(self._of(arm))
            self._conditions.pop()
        return f"(({arms[0]}) if ({test}) else ({arms[1]}))"

    def _binary(self, symbol: str, parts: list[str]) -> str:
        if symbol in ("==", "!=") and parts[1] == "False" and "has(" in parts[0]:
            return f"(not ({parts[0]}))" if symbol == "==" else parts[0]  # output == NULL
        if symbol == "+" and all(re.fullmatch(r"\(*'[^']*'\)*", part) for part in parts):
            return repr("".join(part.strip("()'") for part in parts))
        symbol = {"&&": "and", "||": "or", "/": "//"}.get(symbol, symbol)
        return UNKNOWN if symbol in ("<<", ">>", "^") else f"(({parts[0]}) {symbol} ({parts[1]}))"

    def _named(self, name: str) -> str:
        if name == "arch":
            return repr(self._arch)
        if name in self._env and not name.startswith("hparams."):
            return f"({self._env[name]})"
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in self._sources.tensors:
            return name
        if name in self._sources.architectures:
            return repr(self._sources.architectures[name])
        if name.startswith("hparams."):
            field = _field(name)
            if self._hparams:
                return field
            return field if field in self.definitions else self._default(name)
        return UNKNOWN

    def _indexed(self, name: str, index: str) -> str:
        array = name.startswith("hparams.") and name.endswith(("_arr", "_impl"))
        return f"{_field(name)}[{index}]" if array else UNKNOWN

    def _called(self, node: Node) -> str:
        name, parts = node.value, node.parts
        owner, _, method = name.rpartition(".")
        if name == "ml.get_arch":
            return repr(self._arch)
        if name == "vocab.n_tokens":
            return "n_vocab"
        if name == "std::to_string":
            return repr(f"{{{simple(self._of(parts[0]))}}}")
        if method == "c_str":
            return self._named(owner)
        if owner == "ml" and method.startswith("get_"):
            return self._got(method, parts)
        if name in ("float", "uint32_t", "int", "int64_t", "llama_rope_scaling_type_from_string"):
            return self._of(parts[0])
        if name in ("std::max", "std::min"):
            return f"{name[5:]}({self._of(parts[0])}, {self._of(parts[1])})"
        if owner == "hparams":
            return self._of_hparams(method, parts)
        if name == "create_tensor":
            return self._created(parts)
        if name == "load_swa_pattern":
            return self._pattern("is_swa_impl", parts[1:], "attention.sliding_window_pattern")
        if name == "load_arch_hparams":
            self._run(self._owner, name)
            return UNKNOWN
        called = self._lambdas.get(name)
        if called is None and name.startswith("create_tensor_"):
            called = self._sources.function("llama_model_base", name)
        if called is not None:
            self._call(called, parts)
        return UNKNOWN

    def _call(self, function: Function, parts: Sequence[Node]) -> None:
        values = [self._of(each) for each in parts]
        before = dict(self._env)
        self._env |= dict(zip(function.parameters, values, strict=False))
        self._body(function.body)
        kept = {name: value for name, value in self._env.items() if name.startswith("layer.")}
        self._env = before | kept

    def _of_hparams(self, method: str, parts: Sequence[Node]) -> str:
        indexed, plain = _FUNCTIONS.get(method, ("", ""))
        if method == "set_swa_pattern":
            return self._pattern("is_swa_impl", parts, "")
        if method == "set_recr_pattern":
            return self._pattern("is_recr_impl", parts, "")
        if not parts:
            return plain or UNKNOWN
        index = self._of(parts[0])
        if UNKNOWN in index or not indexed:
            return UNKNOWN
        return plain if index == "0" and plain else indexed.format(index)

    def _pattern(self, field: str, parts: Sequence[Node], key: str) -> str:
        """llama_hparams::set_swa_pattern, and load_swa_pattern where there is a *key*."""
        period = self._of(parts[0])
        first = self._of(parts[1]) if len(parts) > 1 else "False"
        if key:
            period = f"key({key!r}, {period})"
        if UNKNOWN in (period, first) or UNKNOWN in self._conditions:
            self._set(f"hparams.{field}", UNKNOWN)
            return UNKNOWN
        rule = "!= 0" if first == "True" else f"< ({period}) - 1"
        value = f"(i < n_layer and ({_PATTERN.format(f'({period})', rule)}))"
        if key:
            value = f"(key_at({key!r}, i) if is_array({key!r}) else {value})"
        self._set(f"hparams.{field}", value)
        return UNKNOWN

    # -- what the loader reads and makes ---------------------------------------------------------

    def _got(self, method: str, parts: Sequence[Node]) -> str:
        if method in ("get_weight", "get_tensor_meta", "get_tensor"):
            name = simple(self._of(parts[0])) if parts else UNKNOWN
            return f"has({name})" if name.startswith("'") and UNKNOWN not in name else UNKNOWN
        key = self._sources.keys.get(parts[0].value) if parts else None
        if key is None:
            return UNKNOWN
        key = key.removeprefix("%s.")
        place = 3 if method == "get_key_or_arr" else 2
        required = self._of(parts[place]) if len(parts) > place else "True"
        needed = required not in ("False", "0", "0.0")
        if needed:
            conditions = [*self._conditions, *([f"i < ({self._count})"] if self._count else [])]
            row = [key, simple(" and ".join(f"({each})" for each in [*conditions, "True"]))]
            if row[1] != "False" and row not in self.keys:
                self.keys.append(row)
        self._keep(method, parts[1].value, parts[1].kind, key, needed)
        return f"has_key({key!r})"

    def _keep(self, method: str, target: str, kind: str, key: str, needed: bool) -> None:
        if kind != "name":
            return
        if method == "get_arr_n":
            before = self._env.get(target, "0")
            self._set(target, f"({before}) if ({before}) else length({key!r})")
            return
        array = method != "get_key"
        read = "key_at" if array else "key"
        old = self._env.get(target, self._default(target))
        index = ", i" if array else ""
        known = UNKNOWN not in old and not needed
        default = f", ({old})" if known else ("" if needed else f", {UNKNOWN}")
        if self._count:
            self._set(target, UNKNOWN)
        else:
            self._set(target, f"{read}({key!r}{index}{default})")

    def _default(self, target: str) -> str:
        """What a field is until it is read: arrays are filled with zeros."""
        header = {"hparams.rope_scaling_type_train": "'linear'", "hparams.n_expert": "0"}
        if target.endswith("_arr"):
            return "0"
        default = self._sources.defaults.get(_field(target), UNKNOWN)
        return header.get(target, default)

    def _created(self, parts: Sequence[Node]) -> str:
        name = self._tensor_name(parts[0])
        shape = [simple(self._of(each)) for each in parts[1].parts]
        shape = [UNKNOWN if re.search(rf"\b{UNKNOWN}\b", each) else each for each in shape]
        flags = simple(self._of(parts[2])) if len(parts) > 2 else "0"
        if re.search(rf"\b{UNKNOWN}\b", flags):
            flags = UNKNOWN
        condition = simple(" and ".join(f"({each})" for each in [*self._conditions, "True"]))
        duplicated = flags.isdigit() and int(flags) & FLAGS["TENSOR_DUPLICATED"]
        if duplicated and (match := re.fullmatch(r"not has\('([^']*)'\)", condition)):
            self.instead[match[1]] = name
        if condition != "False" and not duplicated:
            row = [name, shape, int(flags) if flags.isdigit() else flags]
            if condition != "True" or self._count:
                row.append("" if condition == "True" else condition)
            if self._count:
                row.append(self._count)
            if row not in self.tensors:
                self.tensors.append(row)
        return f"has({name!r})" if name != UNKNOWN else UNKNOWN

    def _tensor_name(self, node: Node) -> str:
        """`blk.{i}.attn_q.weight`; braces hold an expression."""
        known = node.kind == "call" and node.value == "tn" and node.parts
        symbol = node.parts[0].value if known else ""
        symbol = self._env.get(symbol, symbol)
        pattern = self._sources.tensors.get(symbol)
        self._seen.add(symbol)
        if pattern is None:
            return UNKNOWN
        rest = list(node.parts[1:])
        suffix = rest.pop(0).value[1:-1] if rest and rest[0].kind == "string" else ""
        for index in rest[: pattern.count("%d")]:
            number = simple(self._of(index))
            if UNKNOWN in number:
                return UNKNOWN
            pattern = pattern.replace("%d", number if number.isdigit() else f"{{{number}}}", 1)
        return f"{pattern}.{suffix}" if suffix else pattern


def _field(name: str) -> str:
    """`posnet_n_embd` of `hparams.posnet.n_embd`."""
    return name.removeprefix("hparams.").replace(".", "_")


def _fields_in(value: str) -> set[str]:
    """The fields that *value* mentions, those that a name is derived from as well."""
    found = names_in(value)
    rest = list(found)
    while rest:
        more = names_in(_DERIVED.get(rest.pop(), "0")) - found
        found |= more
        rest += more
    return found
