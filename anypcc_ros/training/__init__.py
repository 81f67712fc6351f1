"""Training of the Universal Context Model: data, augmentation, the loop, quantise-and-export."""
