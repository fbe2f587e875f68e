"""The host side of one labeler, spread over processes that share its device.

What a process does with a unit is the labeler's; here are the processes, what they say to each other, and their crops.
"""
