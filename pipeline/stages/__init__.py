"""What happens to the samples of a unit: read, decode, crop, write.

Stages do not import each other, and know no threads.
"""
