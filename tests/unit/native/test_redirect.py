"""Plain HTTP beside a site under TLS."""

import asyncio

import aiohttp

from kwaainet.native.http import serve
from kwaainet.native.redirect import Redirect


def test_browsers_are_sent_to_https_and_an_authority_is_answered() -> None:
    async def main() -> None:
        answers: dict[str, str] = {}
        runner, url = await serve(Redirect(lambda: "https://relay.example/", answers), "127.0.0.1", 0)
        async with aiohttp.ClientSession() as session:
            async with session.get(url + "model/x?y=1", allow_redirects=False) as answer:
                assert answer.status == 308
                assert answer.headers["Location"] == "https://relay.example/model/x?y=1"
            async with session.get(url + "/evil.example/", allow_redirects=False) as answer:
                assert answer.headers["Location"].startswith("https://relay.example/")
            challenge = url + ".well-known/acme-challenge/token"
            async with session.get(challenge, allow_redirects=False) as answer:
                assert answer.status == 404
            answers["token"] = "token.thumbprint"
            async with session.get(challenge) as answer:
                assert await answer.text() == "token.thumbprint"
        await runner.cleanup()

    asyncio.run(asyncio.wait_for(main(), 60))
