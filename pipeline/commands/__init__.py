"""One module for each command, with the name of the command; each is a function of the Python API.

Shared and detailed code is in the packages below. Commands do not import each other.
"""
