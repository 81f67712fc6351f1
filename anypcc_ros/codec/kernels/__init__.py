"""Native implementations of the codec's hot operations, each equal to its reference."""
