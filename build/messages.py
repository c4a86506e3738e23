"""Write web/worker/messages.ts, node_messages.ts, chat_messages.ts and page_messages.ts from the modules of
these names in kwaainet.browser; with --check, only say whether they are current.

Rule of the file: it knows the few Python types messages use, and refuses every other.
"""

from __future__ import annotations

import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal, NotRequired, get_args, get_origin

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "pysrc"))

from kwaainet.browser import (  # noqa: E402  (needs the path above)
    chat_messages,
    messages,
    node_messages,
    page_messages,
)

MODULES = (messages, node_messages, chat_messages, page_messages)
SCALARS = {str: "string", int: "number", float: "number", bool: "boolean", bytes: "Uint8Array<ArrayBuffer>"}


def spell(kind: Any) -> str:
    """A Python annotation as a TypeScript type; ``TypeError`` for one that messages may not use."""
    if kind in SCALARS:
        return SCALARS[kind]
    if kind in (messages.Port, messages.Flag):
        return "MessagePort" if kind is messages.Port else "SharedArrayBuffer"
    if typing.is_typeddict(kind):
        return str(kind.__name__)
    if get_origin(kind) is list:
        inner = spell(get_args(kind)[0])
        return f"({inner})[]" if " | " in inner else f"{inner}[]"
    if get_origin(kind) is Literal:
        return " | ".join(f'"{value}"' for value in get_args(kind))
    if isinstance(kind, types.UnionType) or get_origin(kind) is typing.Union:
        return " | ".join(spell(each) for each in get_args(kind))
    raise TypeError(
        f"{kind!r} cannot be part of a message; use str, int, float, bool, bytes, list or Literal"
    )


def interface(kind: type) -> str:
    """One TypedDict as an interface."""
    fields = []
    for name, annotation in typing.get_type_hints(kind, include_extras=True).items():
        optional = get_origin(annotation) is NotRequired
        inner = get_args(annotation)[0] if optional else annotation
        fields.append(f"  {name}{'?' if optional else ''}: {spell(inner)}\n")
    doc = " ".join((kind.__doc__ or "").split())
    return f"/** {doc} */\nexport interface {kind.__name__} {{\n{''.join(fields)}}}\n"


def target(module: types.ModuleType) -> Path:
    """The file written from ``module``."""
    return ROOT / "web" / "worker" / f"{module.__name__.rpartition('.')[2]}.ts"


def render(module: types.ModuleType) -> str:
    """The whole file; message types of another module are imported from its file."""
    source = module.__name__.rpartition(".")[2]
    parts = [f"// Generated from kwaainet/browser/{source}.py by build/messages.py; change it there.\n"]
    values = {name: value for name, value in vars(module).items() if _is_said(name)}
    foreign = [name for name, value in values.items() if getattr(messages, name, None) is value]
    if module is not messages and foreign:
        needed = sorted(
            name for name in foreign if isinstance(values[name], type)
        )  # literals are spelled out
        parts.append(f"import type {{ {', '.join(needed)} }} from './messages.ts'\n")
        values = {name: value for name, value in values.items() if name not in foreign}
    for name, value in values.items():
        if isinstance(value, int):
            parts.append(f"export const {name} = {value}\n")
        elif isinstance(value, type) and typing.is_typeddict(value):
            parts.append(interface(value))
        else:
            parts.append(f"export type {name} =\n  | {spell(value).replace(' | ', chr(10) + '  | ')}\n")
    return "\n".join(parts)


def _is_said(name: str) -> bool:
    return not name.startswith("_") and name not in {
        "annotations",
        "Literal",
        "NotRequired",
        "TypedDict",
        "Port",
        "Flag",
    }


def main() -> int:
    """Write or check; the exit code says whether the files were current when checking."""
    late = [module for module in MODULES if not _is_current(module)]
    for module in late:
        if "--check" not in sys.argv[1:]:
            target(module).write_text(render(module))
        else:
            path = target(module).relative_to(ROOT)
            print(f"{path} is not current; run: python build/messages.py", file=sys.stderr)
    return 1 if late and "--check" in sys.argv[1:] else 0


def _is_current(module: types.ModuleType) -> bool:
    return target(module).is_file() and target(module).read_text() == render(module)


if __name__ == "__main__":
    sys.exit(main())
