"""Images for annotators: which ones, and the lists that annotation tools read.

What annotators answered is read by trust.truth and trust.annotations.
"""
