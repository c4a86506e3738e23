"""Hivemind's distributed hash table without its I/O: ids, records, tables, searches, messages.

Follows hivemind 1.1.12 (``hivemind/dht``): Kademlia over three unary RPCs, records with an
expiration of which the newer wins, and dictionaries whose subkeys expire one by one. Rule of the
folder: no clock, no sockets, no randomness of its own; ``now`` (unix seconds) is an argument.
``kwaainet.node.dht`` drives it over a host.
"""
