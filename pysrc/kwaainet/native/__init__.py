"""CPython adapters of the ports: files, sockets, onnxruntime."""
