"""Engines run a worker over items and stream its receipts: inline in this process, or on Ray Data.

They know nothing of images. Only on_ray imports Ray; what ray_start, ray_resources and ray_meter need of it is handed
to them.
"""
