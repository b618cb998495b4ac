"""From samples to numbers: feature networks, moments, distances, and how sure one can be of them.

resize.py, inception.py, features.py: uint8 images -> what a network sees -> features.
precision.py: the same features on GPUs as on CPUs.
extractors.py: one interface to all feature networks, with passports.
moments.py, statistics.py: mean and covariance, gathered, merged, stored, read.
metrics.py, fid.py: features or moments -> distance -> score with an interval.
"""
