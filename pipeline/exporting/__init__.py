"""A labelled dataset from predictions: selection of rows, their original images, files in several formats.

The command itself is commands.export.
"""
