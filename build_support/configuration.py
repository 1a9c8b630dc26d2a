"""``python -m build_support.configuration``: docs/configuration.md, from what eniway/config.py says of each key."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml
from msgspec import inspect as types

from eniway import config

PAGE: Final = Path(__file__).resolve().parent.parent / "docs/configuration.md"
_HEAD: Final = """\
# Configuration

`eniway node` and `eniway operator` read one YAML file, `config.yaml` of the ConfigMap `eniway-config`. A key that is
not here is refused at start, by name; a value of another kind is refused with what was expected. After a change:
`kubectl -n kube-system rollout restart daemonset/eniway-node deployment/eniway-operator`.

Written by `make manifests` from [eniway/config.py](../eniway/config.py), which is the truth.

| key | value | default | meaning |
|---|---|---|---|
"""
_EXTENDER: Final = """
## The scheduler's extender

`eniway extender --config FILE` reads a file of its own, by the same rules; without one every key has its default.

| key | value | default | meaning |
|---|---|---|---|
"""


def page() -> str:
    """The page as it has to be; ValueError names a key that is not explained."""
    tables = (
        "".join(f"| {' | '.join(row)} |\n" for row in rows(of)) for of in (config.NodeConfig, config.ExtenderConfig)
    )
    return _HEAD + _EXTENDER.join(tables)


def rows(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Key with its path, kind of value, default and meaning, of a section and those within it."""
    meanings = explained(struct)
    for field in msgspec.structs.fields(struct):
        key = prefix + field.name
        if not (meaning := meanings.get(field.name)):
            raise ValueError(f"{struct.__name__}.{field.name}: expected a sentence below it that explains it")
        kind = types.type_info(field.type)
        if isinstance(kind, types.StructType):
            yield f"`{key}`", "section", "", meaning
            yield from rows(kind.cls, f"{key}.")
        elif isinstance(kind, types.ListType) and isinstance(kind.item_type, types.StructType):
            yield f"`{key}`", "list of sections", default(field), meaning
            yield from rows(kind.item_type.cls, f"{key}[].")
        else:
            yield f"`{key}`", value(kind), default(field), meaning


def explained(struct: type) -> dict[str, str]:
    """The sentence below each field of a class, on one line."""
    (body,) = (node for node in ast.parse(inspect.getsource(struct)).body if isinstance(node, ast.ClassDef))
    found = {}
    for line, below in zip(body.body, body.body[1:], strict=False):
        match line, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.replace("``", "`").split()).replace("|", "\\|")
    return found


def value(kind: types.Type) -> str:  # noqa: C901, PLR0911 -- a table
    """What may stand there, in words."""
    match kind:
        case types.LiteralType(values=(only,)):
            return f"`{only}`"
        case types.LiteralType(values=values):
            return "one of " + ", ".join(f"`{one}`" for one in values)
        case types.StrType(pattern=str(pattern)):
            words = re.fullmatch(r"\^\(([a-z|-]+)\)\$", pattern)
            return "one of " + ", ".join(f"`{one}`" for one in words[1].split("|")) if words else f"`{pattern}`"
        case types.StrType():
            return "text"
        case types.IntType(ge=low, gt=above, le=high):
            return _between("whole number", low, above, high)
        case types.FloatType(ge=low, gt=above, le=high):
            return _between("number", low, above, high)
        case types.ListType(item_type=item, min_length=low, max_length=high):
            return _between(f"list of {value(item)}", low, None, high)
        case types.DictType(key_type=key, value_type=item, min_length=low, max_length=high):
            return _between(f"map of {value(key)} to {value(item)}", low, None, high)
        case types.UnionType(types=kinds):
            return " or ".join(value(one) for one in kinds if not isinstance(one, types.NoneType))
        case types.BoolType():
            return "`true` or `false`"
        case _:
            raise ValueError(f"no words for a value of type {kind}")


def _between(what: str, low: float | None, above: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{what}, {low} … {high}"
    bounds = [f"above {above}" if above is not None else "", f"at least {low}" if low else ""]
    bounds.append(f"at most {high}" if high is not None else "")
    return ", ".join([what, *filter(None, bounds)])


def default(field: Any) -> str:
    """The default as YAML has it; a key without one has to be there."""
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{field.default_factory()}`"
    if field.default is msgspec.NODEFAULT:
        return "(required)"
    return "`" + yaml.safe_dump(field.default).removesuffix("...\n").strip() + "`"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
