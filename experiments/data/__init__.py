"""Data sets on the device or as streams, their augmentation, and the order in which steps visit them."""
