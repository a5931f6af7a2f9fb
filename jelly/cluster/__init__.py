"""Several servers over one database. Each of them is a node.

A server that runs alone imports nothing of this package.
"""
