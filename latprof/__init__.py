"""Measures a device into a latency table; needs the device, never PyTorch.

Begin with `latprof.profile.profile`, `latprof.detect.this_device`,
`latprof.compare.compare_files`, and `latprof.share.push` and `pull`.
"""
