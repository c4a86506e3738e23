"""KwaaiNet: a browser tab or a desktop process as a server of a Petals swarm.

Layers, top to bottom (arrows point down only; ``lint-imports`` holds them)::

    native | browser | testing                      runtime edges: the ports, three times
    node                                            async use cases over the ports only
    inference                                       graphs, sessions, sampling, tokenizer
    swarm                                           who serves which blocks
    dht | libp2p                                    records; the relay's own libp2p, sans-IO
    identity | compression | formats
    wire                                            Hivemind's bytes
    ports  types  errors

Everything below ``node`` is sans-IO: bytes, time and randomness come in as arguments.
"""

__version__ = "0.1.0"
