import pytest

from kwaainet.errors import ConfigError
from kwaainet.node.client_options import ClientOptions
from kwaainet.types import PeerId


def test_everybody_may_serve_unless_said() -> None:
    assert ClientOptions().usable(PeerId(b"\x00\x00"))


@pytest.mark.parametrize(
    "options", [{"routing": "best"}, {"push": True}, {"step_timeout": 0}, {"replay_tokens": -1}]
)
def test_what_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        ClientOptions(**options)  # type: ignore[arg-type]
