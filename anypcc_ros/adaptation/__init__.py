"""Tuning a model to what it shall code: one cloud, or what a sensor or a scene gives. Needs torch; decoding needs nothing of it.

Instance-adaptive fine-tuning is of AnyPcc (arXiv 2510.20331): what is decided while the frozen part of the network stays as it
is are the prediction heads, and the change of their weights is sent.
"""

from anypcc_ros.adaptation.heads import HeadTuner

__all__ = ["HeadTuner"]
