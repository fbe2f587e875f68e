"""Formatting of numbers with units, of results and of commands to run, and escaping of names for a terminal.

No messages and no layout.
"""
