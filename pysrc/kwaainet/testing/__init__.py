"""The ports in memory and a virtual clock: what tests of the node run on, here and in Pyodide.

Shipped with the package, because whoever writes an adapter of a port needs ``compliance``. Rule of
the folder: no sockets, no files, no real time; randomness comes from a seed.
"""
