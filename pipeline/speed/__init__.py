"""Rates of a labeler on this machine: each stage alone, the whole job, and the bottleneck.

Used by bench and plan; nothing here runs in a job.
"""
