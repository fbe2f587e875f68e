"""The page on which people label the images of a list: its server, its pictures, and the list that it fills in.

pipeline.annotation draws the images and writes the lists.
"""
