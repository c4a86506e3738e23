"""Turns a conversation into the prompt that the model was trained on.

Follows ``transformers``' ``utils/chat_template_utils.py``. Rule of the file: a template comes from
a model file, so it runs in Jinja's sandbox and whatever it does wrong is that file's error. Jinja is
imported by this file alone, so only who renders a chat needs it (a tab fetches it with the chat).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import InputError


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    special_tokens: Mapping[str, str],
    *,
    now: datetime,
    add_generation_prompt: bool = True,
) -> str:
    """The prompt for ``messages`` (``{"role": "user", "content": "…"}``) by a model's own template.

    ``special_tokens``: ``bos_token`` and the like as text; ``now``: what the template takes for the
    present. Raises ``InputError`` if the template fails on these messages.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.globals.update(raise_exception=_raise, strftime_now=now.strftime)
    environment.filters["tojson"] = _to_json
    try:
        return environment.from_string(template).render(
            messages=messages, add_generation_prompt=add_generation_prompt, **special_tokens
        )
    except Exception as error:  # a template is a program: it can fail in any way
        raise InputError(f"the chat template fails on this conversation: {error!s:.200}") from error


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """Jinja's own filter escapes HTML, which a model must not see."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
