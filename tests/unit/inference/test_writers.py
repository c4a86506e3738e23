"""Every kind of graph that an engine can ask for has its writer."""

import pytest

from kwaainet.inference.graph import OnnxWriter
from kwaainet.inference.program import ProgramWriter
from kwaainet.inference.writers import writer_for
from kwaainet.testing.span import CONFIG
from kwaainet.types import BlockRange


@pytest.mark.parametrize(("graphs", "kind"), [("onnx", OnnxWriter), ("program", ProgramWriter)])
def test_an_engine_gets_what_it_takes(graphs: str, kind: type) -> None:
    writer = writer_for(graphs, CONFIG, BlockRange(1, 3))
    assert isinstance(writer, kind)
    assert writer.shape.blocks == 2
