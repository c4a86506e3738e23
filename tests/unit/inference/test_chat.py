"""Templates render as Hugging Face renders them, and can do no more than that."""

from __future__ import annotations

from datetime import datetime

import pytest

from kwaainet.errors import InputError
from kwaainet.inference.chat import render

NOW = datetime(2026, 3, 1)
HI = [{"role": "user", "content": "Hi <b>"}]


def rendered(template: str, messages: list[dict[str, str]] = HI, **special: str) -> str:
    return render(template, messages, special, now=NOW)


def test_a_template_of_smollm_2() -> None:
    template = (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    assert rendered(template) == (
        "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(template, HI, {}, now=NOW, add_generation_prompt=False).endswith("Hi <b><|im_end|>\n")


def test_white_space_and_helpers_are_hugging_faces() -> None:
    block = (
        "{% for message in messages %}\n    {% if true %}\n"
        "{{ bos_token }}{{ message.content }}\n    {% endif %}\n{% endfor %}"
    )
    assert rendered(block, bos_token="<s>") == "<s>Hi <b>\n"
    assert rendered("{{ messages | tojson }}") == '[{"role": "user", "content": "Hi <b>"}]'
    assert rendered("{% for m in [1, 2] %}{{ m }}{% break %}{% endfor %}") == "1"
    assert rendered("{{ strftime_now('%Y-%m-%d') }}") == "2026-03-01"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for %}", "fails on this conversation"),
        ("{{ messages.append(1) }}", "fails on this conversation"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "fails on this conversation"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "fails on this conversation"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails on this conversation"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_what_a_template_does_wrong_is_its_own_error(template: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rendered(template)
