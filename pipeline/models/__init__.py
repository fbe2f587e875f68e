"""The classifiers: which there are, their weights, their preprocessing, and what they say together."""
