"""What verify needs: one unit's samples in the input, reconciled with its rows in the output.

The command itself is commands.verify.
"""
