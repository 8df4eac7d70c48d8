"""TFLite: a flatbuffer -> a spelling in ONNX's operators: `schema` reads, `convert` walks, `ops/` spells."""
