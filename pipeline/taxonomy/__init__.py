"""Classes of one's own above the networks' classes: groups in levels, from a file or from WordNet.

``classes_file`` reads ``--classes``, ``wordnet`` has ImageNet's hierarchy, ``tree`` is what both become, ``sums``
adds up probabilities, and ``choosing`` says which group an image is given. Nothing here labels or prints, and nothing
loads torch.
"""
