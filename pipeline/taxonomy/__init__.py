"""Classes of one's own above the networks' classes: groups in levels, from a file or from WordNet.

``classes_file`` reads ``--classes``, ``wordnet`` has ImageNet's hierarchy, ``tree`` is what both become, and ``sums``
adds up probabilities. Nothing here labels, scores or prints, and nothing loads torch.
"""
