"""Trials of a network on a few images whose class is known, before a job is run with it.

What a whole output is worth is evaluated in ``trust``.
"""
