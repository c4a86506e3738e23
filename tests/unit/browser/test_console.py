import logging

import pytest

from kwaainet.browser.console import log_to_console


def test_only_what_is_wrong_looks_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    log_to_console()
    log = logging.getLogger("kwaainet.test")
    log.info("loaded")
    log.warning("lost")
    assert capsys.readouterr() == ("kwaainet.test: loaded\n", "kwaainet.test: lost\n")
