"""Reconciliation of one unit for verify: the samples in its input against the rows in its parts.

The command itself is commands.verify.
"""
