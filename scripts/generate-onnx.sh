#!/usr/bin/env bash
# Regenerates ts/src/onnx/onnx_pb.ts from onnx.proto. The generator is fetched into a temporary folder: it is no dependency.
# The version of protoc-gen-es must be that of @bufbuild/protobuf in package.json.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init -y >/dev/null
npm install --no-audit --no-fund @bufbuild/buf@1.75.0 @bufbuild/protoc-gen-es@2.17.0 @bufbuild/protobuf@2.17.0
cp "$root/ts/src/onnx/onnx.proto" .
cat >buf.gen.yaml <<'YAML'
version: v2
plugins:
  - local: protoc-gen-es
    out: generated
    opt: [target=ts]
YAML
PATH="$work/node_modules/.bin:$PATH" npx buf generate onnx.proto
cp generated/onnx_pb.ts "$root/ts/src/onnx/onnx_pb.ts"
