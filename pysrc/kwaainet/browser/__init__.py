"""The runtime edge in a tab: the five ports over the TypeScript of web/bridge, and the node worker's main.

Rule of the package: what needs ``js`` or ``pyodide`` stands in ``worker``, ``bridge`` and ``page_port``; the
adapters speak to small protocols, so that they are tested in CPython. ``AsyncClient`` is for the Python of
any page.
"""

from .completions import AsyncClient

__all__ = ["AsyncClient"]
