"""Async use cases over the ports: the server, the client and the DHT node both runtimes build."""
