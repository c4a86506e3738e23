"""Hivemind's tensor compressions: numpy arrays to and from serialized tensors."""
