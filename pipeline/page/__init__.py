"""The HTML pages, report and gallery: statistics and queries of the predictions, plots, tables, pictures, templates.

The commands themselves are commands.report and commands.gallery.
"""
