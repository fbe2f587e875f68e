"""The classifiers: which exist, their weights, preprocessing and cost, how they run, and the consensus.

No images in files and no units: crops in, predictions out.
"""
