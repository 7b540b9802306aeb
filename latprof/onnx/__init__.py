"""ONNX files: written with the layers' names in them, read as networks, attributed to layers."""
