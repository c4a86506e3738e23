"""Hivemind's wire: varints, protobuf and msgpack values, messages, and the RPC framings."""
