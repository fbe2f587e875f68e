"""What may be asked for: the options of a job, its YAML file and the check of it.

No defaults that depend on the machine, and no reading of the environment.
"""
