"""Stock petals prompt tuning through our servers: the same losses as on local Hugging Face."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from interop.cases import Case
from interop.running import KWAAINET, OFFLINE, PEERS, PEERS_PYTHON, ask, native_tab, relay, started, tab

MODES = ("ptune", "deep_ptune")
STEPS, FEW = 20, 4  # what is learnt is seen after the one; the other shows the same gradients
GRADIENTS = 1e-3  # the largest relative difference of a gradient from Hugging Face's
LOSSES = 1e-3  # and of a loss on the way
TIMEOUT = 300.0


def check(result: dict[str, Any], learnt: float, modes: Sequence[str] = MODES) -> None:
    """As on local Hugging Face, step by step, and the last loss at most ``learnt`` times the first."""
    for mode in modes:
        trained = result[mode]
        assert len(trained["gradients"]) == 2 * (1 + (mode == "deep_ptune"))
        assert max(trained["gradients"]) < GRADIENTS, trained["gradients"]
        assert trained["swarm"][-1] < learnt * trained["swarm"][0], trained["swarm"]
        assert trained["tokens"]["got"] == trained["tokens"]["expected"]
        np.testing.assert_allclose(trained["swarm"], trained["local"], rtol=LOSSES)


def test_prompts_are_trained_through_native_servers(odd: Case, tmp_path: Path) -> None:
    """Two of them, so that gradients go from one to the other."""
    with relay(tmp_path) as origin:
        command = [KWAAINET, "serve", "--model", odd.served, "--prefix", odd.prefix, "--threads", "1"]
        command += ["--drain", "0", "--initial-peers", origin["tcp"], "--blocks"]
        with (
            started([*command, "0:3"], tmp_path, "first") as first,
            started([*command, "3:5"], tmp_path, "second") as second,
        ):
            for server in (first, second):
                server.event("online")
            check(ask(tmp_path, "petals_training", odd.spec(origin["tcp"], modes=MODES, steps=STEPS)), 0.7)


def test_prompts_are_trained_through_a_tab(odd: Case, tmp_path: Path) -> None:
    with (
        relay(tmp_path, "--model", odd.served, "--prefix", odd.prefix) as origin,
        tab(tmp_path, origin["http"], "--backend", "wasm"),
    ):
        check(ask(tmp_path, "petals_training", odd.spec(origin["tcp"], modes=MODES, steps=FEW)), 1.0)


def test_a_tab_that_is_killed_between_forward_and_backward_changes_no_gradient(
    odd: Case, tmp_path: Path
) -> None:
    """Behind the gateway; the tab that takes its place has seen nothing of the forward."""
    modes, go_on = ("deep_ptune",), tmp_path / "go-on"
    spec, result = tmp_path / "spec", tmp_path / "result"
    with (
        relay(tmp_path, "--model", odd.folder, "--prefix", odd.prefix, "--expose", "gateway") as origin,
        native_tab(tmp_path, origin, odd, "0:3", name="tab-1") as (first, _),
        native_tab(tmp_path, origin, odd, "3:5", name="tab-2"),
    ):
        spec.write_text(json.dumps(odd.spec(origin["tcp"], modes=modes, steps=2, go_on=str(go_on))))
        command = [PEERS_PYTHON, PEERS / "petals_training.py", spec, result]
        with started(command, tmp_path, "client", OFFLINE) as client:
            client.event("forward")
            with native_tab(tmp_path, origin, odd, "0:3", name="tab-3"):
                first.process.kill()
                go_on.touch()
                assert client.process.wait(TIMEOUT) == 0, client.tail()
        check(json.loads(result.read_text()), 1.0, modes)
