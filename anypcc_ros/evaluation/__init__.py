"""Measuring the codec: bits, time, exactness, distortion, and the same clouds through other codecs."""
