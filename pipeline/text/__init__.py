"""Text for people: numbers with units, and names from inputs made safe for a terminal.

No messages and no layout.
"""
