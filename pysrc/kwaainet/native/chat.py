"""A conversation as the prompt of a model on disk.

Rule of the file: the template, its sandbox and its errors are ``inference.chat``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..errors import InputError
from ..inference.chat import render
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
        model.chat_template,
        messages,
        model.special_tokens,
        now=datetime.now(),
        add_generation_prompt=add_generation_prompt,
    )
