"""A labelled dataset from predictions: which rows, their original images, files in several formats.

The command itself is commands.export.
"""
