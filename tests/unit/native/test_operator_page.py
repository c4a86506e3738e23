"""The operator's page: plain files under a strict policy, which ask for figures that there are."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import aiohttp
import pytest

from kwaainet.native import operator_page
from kwaainet.native.http import Origin, serve


@pytest.mark.parametrize(
    ("path", "kind"),
    [("operator", "text/html"), ("operator/style.css", "text/css"), ("operator/page.js", "text/javascript")],
)
def test_it_is_served_under_a_strict_policy(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "index.html").write_text("page")

    async def main() -> None:
        origin = Origin(tmp_path, list, "0", more=operator_page.routes())
        runner, address = await serve(origin, "127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession() as session, session.get(address + path) as answer:
                assert (answer.status, answer.content_type) == (200, kind)
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
        finally:
            await runner.cleanup()

    asyncio.run(main())


def test_nothing_inline_and_no_markup_from_data() -> None:
    assert "<script>" not in operator_page.PAGE
    assert " style=" not in operator_page.PAGE
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval", operator_page.SCRIPT)


def test_the_script_can_be_read(tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node is not None
    file = tmp_path / "page.mjs"
    file.write_text(operator_page.SCRIPT)
    subprocess.run([node, "--check", file], check=True, timeout=60)
