"""What is on disk in OUT: names and footers of parts, listings, stored probabilities.

Who writes the rows is stages.write.
"""
