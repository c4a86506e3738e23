"""The part of libp2p a relay needs, as machines: bytes in, events out, no sockets and no clock.

A ``Connection`` stacks multistream, noise and yamux; ``identify``, ``kad`` and ``circuit`` hold the
messages and the decisions of the protocols that run on its streams. ``native`` drives them.
"""
