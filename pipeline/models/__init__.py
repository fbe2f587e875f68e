"""The classifiers: their catalogue, weights, preprocessing and cost, how they run, and the consensus.

This package takes crops and returns predictions; it knows no image files and no units.
"""
