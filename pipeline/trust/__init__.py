"""Truth, accuracy, calibration and promised precision.

Statistics on arrays; no image is opened here.
"""
