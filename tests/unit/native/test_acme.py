"""When a certificate is asked for, how slowly after failures, and what stays on disk (interop has Pebble)."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from authority import DAY, Authority, Issued

from kwaainet.errors import ConfigError, RemoteError
from kwaainet.native import acme as acme_module
from kwaainet.native.acme import RENEW_AFTER, Acme
from kwaainet.native.tls import Certificate, Tls

NAME = "relay.example"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def acme(tmp_path: Path) -> Acme:
    return Acme((NAME,), tmp_path / "acme")


def pem(issued: Issued) -> bytes:
    return issued.key.read_bytes() + issued.cert.read_bytes()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def test_the_ports_can_open_before_there_is_a_certificate(acme: Acme) -> None:
    acme.prepare()
    tls = Tls(acme.file, acme.file)
    assert tls.certificate.names == (NAME,)
    assert acme.due(time.time(), 0.5) == 0.0
    assert acme.file.stat().st_mode & 0o777 == 0o600
    before = acme.file.read_bytes()
    acme.prepare()
    assert acme.file.read_bytes() == before


def test_what_is_kept_is_used_until_it_is_time(acme: Acme, authority: Authority) -> None:
    acme.prepare()
    acme.file.write_bytes(pem(authority.issue(NAME, begins=-30 * DAY, ends=60 * DAY)))
    acme.prepare()
    found = Certificate.read(acme.file, acme.file)
    lifetime = found.not_after - found.not_before
    latest = found.not_before + lifetime * RENEW_AFTER
    assert acme.due(time.time(), 0.0) == pytest.approx(latest - time.time(), abs=60)
    assert 0 < acme.due(time.time(), 1.0) < acme.due(time.time(), 0.0)
    assert acme.due(found.not_after - lifetime * 0.2, 0.0) == 0.0
    wider = Acme((NAME, "more.example"), acme.folder)
    assert wider.due(time.time(), 0.0) == 0.0, "a name was added"


def test_a_damaged_file_costs_no_start(acme: Acme) -> None:
    acme.prepare()
    acme.file.write_bytes(b"half a cert")
    (acme.folder / "retry.json").write_text("{")
    acme.prepare()
    assert Tls(acme.file, acme.file).certificate.names == (NAME,)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"certificates cannot be kept in .*: Not a directory"):
        Acme((NAME,), tmp_path / "file" / "acme").prepare()


def test_failures_slow_it_down_even_over_restarts(
    acme: Acme, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acme_module, "FIRST_RETRY", 0.01)
    asked: list[float] = []
    good = pem(authority.issue(NAME, file="good"))

    def obtain(self: Acme, tls: Tls) -> bytes:
        asked.append(time.time())
        if len(asked) < 4:
            raise RemoteError("nobody is there")
        return good

    monkeypatch.setattr(Acme, "obtain", obtain)

    async def main() -> None:
        acme.prepare()
        tls = Tls(acme.file, acme.file)
        keeping = asyncio.ensure_future(acme.keep(tls, lambda: 0.5))
        await until(lambda: tls.reloads == 1)
        keeping.cancel()
        assert tls.certificate.not_after - time.time() > 80 * 86400
        pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
        assert [pause >= 0.011 * 2**n for n, pause in enumerate(pauses)] == [True] * 3
        failures, retry_at = json.loads((acme.folder / "retry.json").read_text())
        assert failures == 0
        assert retry_at - time.time() > 10 * 86400, "a certificate is used for some of its life"
        monkeypatch.setattr(acme_module, "FIRST_RETRY", 1000.0)
        asked.clear()
        (acme.folder / "retry.json").write_text(json.dumps([5, time.time() + 1000]))
        acme.file.unlink()
        acme.prepare()
        again = asyncio.ensure_future(acme.keep(tls))
        await asyncio.sleep(0.05)
        assert asked == [], "the failures of the last run count"
        again.cancel()

    asyncio.run(main())


def test_an_authority_that_is_not_there(acme: Acme) -> None:
    acme.directory = "http://127.0.0.1:9/dir"
    acme.prepare()
    with pytest.raises(RemoteError, match=r"http://127\.0\.0\.1:9/dir cannot be reached"):
        acme.obtain(Tls(acme.file, acme.file))
