"""Model files as named tensors, read by byte range: GGUF, SafeTensors and PyTorch."""
