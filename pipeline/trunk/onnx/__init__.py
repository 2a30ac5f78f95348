"""Networks from ONNX files, run by OpenVINO."""
