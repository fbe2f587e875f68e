"""The HTML report: statistics of the predictions, plots, tables, thumbnails and the page itself.

The command itself is commands.report.
"""
