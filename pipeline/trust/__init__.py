"""How far labels can be trusted: truth, accuracy, calibration, and promised precision.

Statistics on arrays; images are never opened here.
"""
