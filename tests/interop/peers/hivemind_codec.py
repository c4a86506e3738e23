"""The real hivemind's codecs: ``hivemind_codec.py SPEC.json RESULT.json``.

SPEC: tensors [{values, shape, dtype, compression, ours}], messages [{type, ours}] and msgpack [ours], where
``ours`` is hex of what we encoded. RESULT: for a tensor hivemind's bytes and what it reads from its own and
from ours (as float32 bytes), for a message what it writes after reading ours, for msgpack the same.
"""

import numpy as np
import torch
from answering import answer
from hivemind.compression import deserialize_torch_tensor, serialize_torch_tensor
from hivemind.proto import dht_pb2, runtime_pb2
from hivemind.utils import MSGPackSerializer


def read(data):
    tensor = deserialize_torch_tensor(runtime_pb2.Tensor.FromString(data))
    return tensor.to(torch.float32).numpy().tobytes().hex()


def tensor(case):
    values = np.frombuffer(bytes.fromhex(case["values"]), np.float32).reshape(case["shape"]).copy()
    source = torch.from_numpy(values).to(getattr(torch, case["dtype"]))
    theirs = serialize_torch_tensor(source, case["compression"]).SerializeToString()
    return {"theirs": theirs.hex(), "read": read(theirs), "read_ours": read(bytes.fromhex(case["ours"]))}


def message(case):
    kind = getattr(dht_pb2, case["type"], None) or getattr(runtime_pb2, case["type"])
    return kind.FromString(bytes.fromhex(case["ours"])).SerializeToString().hex()


def run(spec):
    return {
        "tensors": [tensor(case) for case in spec["tensors"]],
        "messages": [message(case) for case in spec["messages"]],
        "msgpack": [
            MSGPackSerializer.dumps(MSGPackSerializer.loads(bytes.fromhex(ours))).hex()
            for ours in spec["msgpack"]
        ],
    }


if __name__ == "__main__":
    answer(run)
