"""One module for each command, under its name; each is a function of the Python API.

What several commands need is in the packages below; commands do not import each other.
"""
