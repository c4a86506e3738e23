import asyncio
import json
from pathlib import Path

import pytest

from kwaainet.errors import ConfigError
from kwaainet.native.model import open_model
from kwaainet.native.offered import MOST, check_offer, offer, open_models

ONE, TWO = [Path("a.gguf")], [Path("a.gguf"), Path("b.gguf")]


@pytest.mark.parametrize(
    ("models", "prefixes", "url", "repository", "said"),
    [
        (TWO, ["a"], "", "", "--prefix is given 1 times for 2 models"),
        ([], ["a", "b"], "", "", "--prefix is given 2 times"),
        (ONE, ["a.b"], "", "", "a.b"),
        (TWO, [], "https://h/m/", "", "--model-url is of one model"),
        (TWO, [], "", "https://huggingface.co/x/y", "--repository is of one model"),
        (ONE * (MOST + 1), [], "", "", f"at most {MOST}"),
    ],
)
def test_what_is_not_clear_is_refused(
    models: list[Path], prefixes: list[str], url: str, repository: str, said: str
) -> None:
    with pytest.raises(Exception, match=said):
        check_offer(models, prefixes, url, repository)


def test_one_name_a_model_is_clear() -> None:
    check_offer(TWO, ["a", "b"], "", "")
    check_offer([], ["mine"], "https://h/m/", "")


def test_several_models_are_offered_under_their_names(tiny_gguf: Path) -> None:
    async def main() -> None:
        models = await open_models([tiny_gguf, tiny_gguf], ["one", "two"], lambda progress: None)
        offered = await offer(models, ["one", "two"], "", "")
        assert [one.prefix for one in offered] == ["one", "two"]
        assert [json.loads(one.manifest)["name"] for one in offered] == ["one", "two"]
        assert offered[0].files == dict(open_model(tiny_gguf).files)

    asyncio.run(main())


def test_two_models_of_one_name_are_refused(tiny_gguf: Path) -> None:
    with pytest.raises(ConfigError, match="two models are called tiny-hf"):
        asyncio.run(open_models([tiny_gguf, tiny_gguf], [], lambda progress: None))
