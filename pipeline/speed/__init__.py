"""How fast a labeler is on this machine: each stage alone, the whole job, and what the bottleneck is.

Measured for bench and plan; nothing here runs in a job.
"""
