"""TorchScript: an abstract interpreter of its programs, which spells what depends on data in ONNX's operators."""
