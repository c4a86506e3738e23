"""The test of everything: an unmodified petals client generates through blocks that live in a tab.

Real parts only: Chromium, the relay as its own process, p2pd, hivemind and petals from their packages.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interop.cases import Case
from interop.running import KWAAINET, ROOT, ask, free_port, petals_server, relay, started, tab
from nightly.sizes import whole

from kwaainet.inference.program import COARSE_FROM
from kwaainet.types import BlockRange

GGUF = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
LOGITS = 1e-3  # the largest difference of a logit from local Hugging Face, float32 on wasm
# The same where prompts are rounded to 16 bits; 1.7e-2 was the most that was seen of SmolLM2 (KL 5e-8).
LONG_LOGITS = 3e-2
QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="session")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """SmolLM2-135M from its GGUF file, and the Hugging Face folder that we export from it."""
    base = tmp_path_factory.mktemp("smol")
    folder = base / "smol"
    with started([KWAAINET, "model", "export", GGUF, folder], base, "export") as running:
        assert running.process.wait(300) == 0, running.tail()
    yield Case(GGUF, folder, "SmolLM2-135M-Instruct-hf", 30)
    (folder / "model.safetensors").unlink()  # 650 MB; temporary folders outlive the run


# Where blocks lie is tried with the small one by day: what changes with it does not depend on the model.
EITHER = pytest.mark.parametrize("case", ["odd", "smol"], indirect=True)
SPLIT_CASES = pytest.mark.parametrize("case", ["odd", "smol"] if whole() else ["odd"], indirect=True)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Case)
    return found


# The last forward of each is above 1 MiB of hidden states: the stream variant.
WHOLE: dict[str, dict[str, Any]] = {
    "odd-llama": {"forward": [[1, 16], [3, 9], [12, 200]], "generate": [[5, 24], [40, 12]]},
    "SmolLM2-135M-Instruct-hf": {
        "forward": [[1, 16], [3, 9], [4, 128]],
        "generate": [[5, 8]],
        "prompt": QUESTION,
        "new_tokens": 8,
    },
}
# Of the big model no more than what another way through the blocks can change.
SPLIT = {**WHOLE, "SmolLM2-135M-Instruct-hf": {"forward": [[3, 9]], "generate": [[5, 8]]}}


def check(result: dict[str, Any]) -> None:
    """Logits as local Hugging Face has them, the very same tokens, English where English was asked for."""
    assert result["forward"]
    for outcome in result["forward"]:
        assert outcome["max_abs"] < (LOGITS if outcome["tokens"] < COARSE_FROM else LONG_LOGITS), outcome
    assert result["generate"]
    for outcome in result["generate"]:
        assert outcome["got"] == outcome["expected"]
    if "prompt" in result:
        assert result["prompt"]["got"] == result["prompt"]["expected"]
        assert "Paris" in result["prompt"]["got"].removeprefix(QUESTION)


def halves(case: Case) -> tuple[BlockRange, BlockRange]:
    middle = (case.blocks + 1) // 2
    return BlockRange(0, middle), BlockRange(middle, case.blocks)


@EITHER
def test_one_tab_with_all_blocks(case: Case, tmp_path: Path) -> None:
    with (
        relay(tmp_path, "--model", case.served, "--prefix", case.prefix) as origin,
        tab(tmp_path, origin["http"], "--backend", "wasm") as (_, online),
    ):
        assert (online["blocks"], online["backend"]) == ([0, case.blocks], "wasm")
        check(ask(tmp_path, "petals_client", case.spec(origin["tcp"], **WHOLE[case.prefix])))


@SPLIT_CASES
def test_two_tabs_with_half_each(case: Case, tmp_path: Path) -> None:
    first, second = halves(case)
    with (
        relay(tmp_path, "--model", case.served, "--prefix", case.prefix) as origin,
        tab(tmp_path, origin["http"], "--blocks", str(first), "--backend", "wasm", name="tab-1"),
        tab(tmp_path, origin["http"], "--blocks", str(second), "--backend", "wasm", name="tab-2"),
    ):
        check(ask(tmp_path, "petals_client", case.spec(origin["tcp"], **SPLIT[case.prefix])))


def test_two_tabs_whose_blocks_overlap(odd: Case, tmp_path: Path) -> None:
    """A stock client goes from one to the other wherever it likes, and must ask for the rest of a span."""
    asked = {"forward": [[1, 16], [3, 9]] * 4, "generate": [[5, 12], [9, 8], [2, 12], [17, 6]]}
    with (
        relay(tmp_path, "--model", odd.served, "--prefix", odd.prefix) as origin,
        tab(tmp_path, origin["http"], "--blocks", "0:4", "--backend", "wasm", name="tab-1"),
        tab(tmp_path, origin["http"], "--blocks", "1:5", "--backend", "wasm", name="tab-2"),
    ):
        check(ask(tmp_path, "petals_client", odd.spec(origin["tcp"], **asked)))


@SPLIT_CASES
def test_a_tab_and_a_stock_server(case: Case, tmp_path: Path) -> None:
    first, second = halves(case)
    with (
        relay(tmp_path, "--model", case.served, "--prefix", case.prefix) as origin,
        petals_server(tmp_path, case.folder, case.prefix, str(second), origin["tcp"], free_port()),
        tab(tmp_path, origin["http"], "--blocks", str(first), "--backend", "wasm"),
    ):
        check(ask(tmp_path, "petals_client", case.spec(origin["tcp"], **SPLIT[case.prefix])))


def monitored(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """What the monitor says; like the public one it looks again at who stood still for its 5 s."""
    for _ in range(6):
        seen = ask(folder, "health_monitor", spec)
        if all(server["info"] for server in seen["servers"]):
            break
    return seen


def test_the_health_monitor_lists_a_tab_until_it_stops(odd: Case, tmp_path: Path) -> None:
    repository = "https://huggingface.co/kwaai/odd-llama"
    with relay(tmp_path, "--model", odd.served, "--prefix", odd.prefix, "--repository", repository) as origin:
        spec = odd.spec(origin["tcp"])
        with tab(tmp_path, origin["http"], "--backend", "wasm") as (running, online):
            seen = monitored(tmp_path, spec)
            [server] = seen["servers"]
            assert seen["models"][odd.prefix] == {"num_blocks": 5, "repository": repository}
            assert server["peer_id"] == online["peer_id"]
            assert (server["state"], server["start"], server["end"]) == ("ONLINE", 0, 5)
            assert "version" in server["info"]
            assert running.stop() == 0
        assert running.lines()[-1]["event"] == "offline"
        assert monitored(tmp_path, spec)["servers"] == []
