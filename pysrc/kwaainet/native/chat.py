"""Turns a conversation into the prompt that the model was trained on.

Follows ``transformers``' ``utils/chat_template_utils.py``. Rule of the file: a template comes from
a model file, so it runs in Jinja's sandbox and whatever it does wrong is that file's error.
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
from .model import Model


def render_chat(
    model: Model, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
) -> str:
    """The prompt for ``messages`` (``{"role": "user", "content": "…"}``) by the model's own template.

    Raises ``InputError`` if it has none, or if its template fails on these messages.
    """
    if model.chat_template is None:
        raise InputError(f"{model.path} has no chat template; give it the whole prompt as it is")
    return render(
        model.chat_template, messages, model.special_tokens, add_generation_prompt=add_generation_prompt
    )


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    special_tokens: Mapping[str, str],
    *,
    add_generation_prompt: bool,
) -> str:
    """As ``render_chat``, for a template given as text. Raises ``InputError``."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.globals.update(raise_exception=_raise, strftime_now=_strftime_now)
    environment.filters["tojson"] = _to_json
    try:
        return environment.from_string(template).render(
            messages=messages, add_generation_prompt=add_generation_prompt, **special_tokens
        )
    except Exception as error:  # a template is a program: it can fail in any way
        raise InputError(f"the chat template fails on this conversation: {error!s:.200}") from error


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """Jinja's own filter escapes HTML, which a model must not see."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
