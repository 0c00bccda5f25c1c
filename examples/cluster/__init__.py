"""Upscales one long video on many machines: plan, work, join. README.md tells how."""
