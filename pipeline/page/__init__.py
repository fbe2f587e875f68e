"""The report's page: statistics of the predictions, plots, tables, thumbnails, and the HTML.

The command itself is commands.report.
"""
