"""Images for annotators: which ones, and the lists that annotation tools read.

trust.truth and trust.annotations read the annotated lists.
"""
