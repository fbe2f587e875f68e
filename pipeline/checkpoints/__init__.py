"""Files of weights as people have them: read as data only, their tensors found, and what they say of themselves.

Networks are not built here: what an architecture needs comes in as names and shapes.
"""
