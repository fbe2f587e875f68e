"""The stages of a unit's samples: read, decode, classify (crop), write.

Stages do not import each other. Threads are the labeler's business.
"""
