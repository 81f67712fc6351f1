"""Tuning a model to what it shall code: one cloud, or what a sensor gives. Needs torch; decoding needs nothing of it.

Instance-adaptive fine-tuning is AnyPcc's (arXiv 2510.20331): most of the network stays as it is, its heads are tuned, and
the change of their weights is sent.
"""
