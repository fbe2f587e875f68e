"""One unit from bytes to published parts, in one process with one resident ensemble.

The steps themselves are stages; which units there are is the job's.
"""
