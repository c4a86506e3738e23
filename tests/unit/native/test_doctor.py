"""The order of the steps, what is left untried, and the verdict."""

import asyncio

import pytest

from kwaainet.errors import Ailment, ConfigError, Unreachable
from kwaainet.native.doctor import Outcome, Report, examine
from kwaainet.native.probes import Warned

from .doctored import failed, patient, step, untried

STEPS = (
    "dns tcp page clock|relay address|relay dns|relay tcp|ws upgrade|noise|reservation|circuit|kad lookup|dht"
)


def test_a_relay_that_works_is_reachable() -> None:
    async def main() -> None:
        async with patient() as one:
            heard: list[str] = []
            report = await examine(one.url, lambda step: heard.append(step.name))
            assert report.why == ""
            assert report.reachable
            assert heard == [one.name for one in report.steps]
            assert "|".join(heard) == STEPS.replace(" ", "|", 3)
            assert "there and back in" in step(report, "circuit").found
            told = report.to_dict()
            assert (told["reachable"], told["url"], told["steps"][0]["outcome"]) == (True, one.url, "ok")

    asyncio.run(asyncio.wait_for(main(), 60))


def test_what_rests_on_a_failed_step_is_not_tried() -> None:
    async def main() -> None:
        report = await examine("http://127.0.0.1:9/")
        assert failed(report) == ["tcp"]
        assert untried(report) == [one.name for one in report.steps[2:]]
        assert step(report, "page").cause == "tcp did not work"
        assert not report.reachable
        assert report.why.startswith("tcp: nobody answers at port 9 of 127.0.0.1")

    asyncio.run(main())


def test_each_way_a_step_can_end() -> None:
    async def main() -> None:
        report = Report("url")

        async def fine() -> str:
            return "found"

        async def warned() -> str:
            raise Warned("found", "cause", "remedy")

        async def ill() -> str:
            raise Ailment("cause", "remedy")

        async def lost() -> str:
            raise Unreachable("gone")

        async def slow() -> str:
            await asyncio.sleep(60)
            return ""

        assert not report.reachable, "nothing was tried"
        assert await report.take("fine", fine)
        assert await report.take("warned", warned, "fine")
        assert report.reachable
        assert not await report.take("ill", ill)
        assert not await report.take("lost", lost)
        assert not await report.take("slow", slow, limit=0.01)
        assert not await report.take("after", fine, "fine,ill")
        outcomes = [(one.outcome, one.found, one.cause, one.remedy) for one in report.steps]
        assert outcomes[0] == (Outcome.OK, "found", "", "")
        assert outcomes[1] == (Outcome.WARNING, "found", "cause", "remedy")
        assert outcomes[2] == (Outcome.FAILED, "", "cause", "remedy")
        assert outcomes[3][:3] == (Outcome.FAILED, "", "gone")
        assert outcomes[4][2] == "no answer within 0.01 s"
        assert outcomes[5][:3] == (Outcome.UNTRIED, "", "ill did not work")

    asyncio.run(main())


def test_what_is_no_page() -> None:
    for url in ("ftp://relay.example", "https://", "http://h:port/", "x"):
        with pytest.raises(ConfigError, match="no address of a page"):
            asyncio.run(examine(url))
