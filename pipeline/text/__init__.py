"""Formatting of numbers with units and of results, and escaping of names from inputs for a terminal.

No messages and no layout.
"""
