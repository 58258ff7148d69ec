"""Checks the ONNX files of model folders: python3 scripts/check-onnx.py FOLDER... (needs the package `onnx`)."""

import pathlib
import sys

import onnx

failed = False
files = [path for folder in sys.argv[1:] for path in sorted(pathlib.Path(folder).rglob("*.onnx"))]
if not files:
    sys.exit("usage: check-onnx.py FOLDER... (no .onnx file found)")
for path in files:
    try:
        onnx.checker.check_model(str(path), full_check=True)
        print(f"{path}: ok")
    except Exception as error:  # noqa: BLE001 - the checker raises several kinds
        failed = True
        print(f"{path}: {error}")
sys.exit(failed)
