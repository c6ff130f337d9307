"""The model in use: pictures in, digits out, without torch."""
