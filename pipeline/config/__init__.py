"""Settings of the commands: parsed from options or a job's YAML file, and checked.

Defaults do not depend on the machine, and the environment is not read.
"""
