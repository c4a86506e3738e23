"""A profile's samples are told by the part of the bundle that they were in."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.profiling import self_times
from benchmarks.source_map import SourceMap

SOURCES = ["../../../node_modules/@libp2p/noise/src/noise.ts", "../../bridge/reader.ts"]
# line 0: column 0 is noise's; line 1: column 4 is the reader's, column 40 noise's again
MAPPINGS = "AAAA;ICAA,oCDAA"


def written(folder: Path) -> SourceMap:
    path = folder / "network.js.map"
    path.write_text(json.dumps({"sources": SOURCES, "mappings": MAPPINGS}))
    return SourceMap(path)


def test_positions_are_found_in_their_sources(tmp_path: Path) -> None:
    found = written(tmp_path)
    assert [found.source(*at) for at in ((0, 0), (0, 900), (1, 4), (1, 39), (1, 40))] == [
        "@libp2p/noise",
        "@libp2p/noise",
        "bridge/reader.ts",
        "bridge/reader.ts",
        "@libp2p/noise",
    ]
    assert [found.source(*at) for at in ((1, 3), (2, 0), (-1, -1))] == ["", "", ""]


def test_samples_count_for_the_part_they_were_in(tmp_path: Path) -> None:
    frames = [
        ("(idle)", "", -1, -1),
        ("send", "", -1, -1),
        ("take", "http://x/assets/network.js?v=1", 1, 10),
        ("wasm-function[7]", "http://x/pyodide.asm.wasm", 0, 9),
    ]
    nodes = [
        {
            "id": number,
            "callFrame": {"functionName": name, "url": url, "lineNumber": line, "columnNumber": column},
        }
        for number, (name, url, line, column) in enumerate(frames, 1)
    ]
    profile = {"nodes": nodes, "samples": [1, 2, 3, 3, 4], "timeDeltas": [9000, 1000, 500, 500, 2000]}
    assert self_times(profile, written(tmp_path)) == {
        "WebSocket.send of the browser": 1.0,
        "bridge/reader.ts": 1.0,
        "Python": 2.0,
    }
