"""One run of a job: its description, what is left to do, an engine at work, progress, the summary.

What happens to one unit is in labeler.
"""
