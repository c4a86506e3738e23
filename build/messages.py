"""Write web/worker/messages.ts from kwaainet.browser.messages; with --check, only say whether it is current.

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

from kwaainet.browser import messages  # noqa: E402  (needs the path above)

TARGET = ROOT / "web" / "worker" / "messages.ts"
SCALARS = {str: "string", int: "number", float: "number", bool: "boolean", bytes: "Uint8Array<ArrayBuffer>"}


def spell(kind: Any) -> str:
    """A Python annotation as a TypeScript type; ``TypeError`` for one that messages may not use."""
    if kind in SCALARS:
        return SCALARS[kind]
    if kind is messages.Port:
        return "MessagePort"
    if typing.is_typeddict(kind):
        return str(kind.__name__)
    if get_origin(kind) is list:
        return f"{spell(get_args(kind)[0])}[]"
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


def render() -> str:
    """The whole file."""
    parts = ["// Generated from kwaainet/browser/messages.py by build/messages.py; change it there.\n"]
    for name, value in vars(messages).items():
        if name.startswith("_") or name in {"annotations", "Literal", "NotRequired", "TypedDict", "Port"}:
            continue
        if isinstance(value, int):
            parts.append(f"export const {name} = {value}\n")
        elif isinstance(value, type) and typing.is_typeddict(value):
            parts.append(interface(value))
        else:
            parts.append(f"export type {name} =\n  | {spell(value).replace(' | ', chr(10) + '  | ')}\n")
    return "\n".join(parts)


def main() -> int:
    """Write or check; the exit code says whether the file was current when checking."""
    text = render()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text)
        return 0
    if TARGET.is_file() and TARGET.read_text() == text:
        return 0
    print(f"{TARGET.relative_to(ROOT)} is not current; run: python build/messages.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
