import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { clone, create } from '@bufbuild/protobuf';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { decodeModel, encodeModel, readModel, writeModel } from '../../src/onnx/model.ts';
import {
  AttributeProtoSchema,
  ModelProtoSchema,
  NodeProtoSchema,
  TensorProtoSchema,
} from '../../src/onnx/onnx_pb.ts';
import { decodeTensor, encodeTensor } from '../../src/onnx/tensor.ts';
import { exportModel } from '../../src/program/export.ts';
import { parametersOf, vit } from '../program/support/models.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'onnx-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function sample() {
  const graph = vit({ image: 16, patch: 8, width: 12, depth: 1, heads: 3, out: 5 });
  return exportModel(graph, new Map(parametersOf(graph).map(({ name, value }) => [name, value])));
}

test('a model written by PyTorch comes back byte for byte', () => {
  const bytes = readFileSync(new URL('../fixtures/onnx/vit.onnx', import.meta.url));
  expect(Buffer.from(encodeModel(decodeModel(bytes))).equals(bytes)).toBe(true);
});

test('fields that this schema does not know survive', () => {
  const model = sample();
  const bytes = encodeModel(model);
  // Field 900 of the model, a varint, and field 901, a string; then the same inside a node.
  const unknown = Uint8Array.of(0xa0, 0x38, 0x2a, 0xaa, 0x38, 0x02, 0x68, 0x69);
  const extended = decodeModel(Buffer.concat([bytes, unknown]));
  expect(Buffer.from(encodeModel(extended)).includes(Buffer.from(unknown))).toBe(true);

  const node = model.graph!.node[0]!;
  node.$unknown = [{ no: 900, wireType: 0, data: Uint8Array.of(42) }];
  const again = decodeModel(encodeModel(model)).graph!.node[0]!;
  expect(again.$unknown).toEqual([{ no: 900, wireType: 0, data: Uint8Array.of(42) }]);
});

test('subgraphs and functions survive', () => {
  const model = sample();
  const inner = clone(ModelProtoSchema, model).graph!;
  model.graph!.node.push(
    create(NodeProtoSchema, {
      opType: 'If',
      attribute: [create(AttributeProtoSchema, { name: 'then_branch', type: 5, g: inner })],
    }),
  );
  const again = decodeModel(encodeModel(model));
  expect(again.graph!.node.at(-1)!.attribute[0]!.g!.initializer.length).toBe(inner.initializer.length);
  expect(encodeModel(again)).toEqual(encodeModel(model));
});

test('external data: written beside the model, read back, kept inside the folder', async () => {
  const model = sample();
  const path = join(folder, 'external', 'model.onnx');
  await writeModel(path, model, { externalData: true });
  expect(readdirSync(join(folder, 'external')).sort()).toEqual(['model.onnx', 'model.onnx_data']);
  const stored = decodeModel(readFileSync(path));
  const outside = stored.graph!.initializer.filter(({ dataLocation }) => dataLocation === 1);
  expect(outside.length).toBeGreaterThan(2);
  expect(outside.every(({ rawData }) => rawData.length === 0)).toBe(true);
  const offsets = outside.map(({ externalData }) =>
    Number(externalData.find(({ key }) => key === 'offset')!.value),
  );
  expect(offsets.every((offset) => offset % 4096 === 0)).toBe(true);
  // The model at hand is as it was, and so is what is read back.
  expect(model.graph!.initializer.every(({ dataLocation }) => dataLocation === 0)).toBe(true);
  const again = await readModel(path);
  expect(again.graph!.initializer.map(decodeTensor)).toEqual(model.graph!.initializer.map(decodeTensor));

  for (const location of ['../secret', '/etc/hostname', undefined]) {
    const entry = outside[0]!.externalData.filter(({ key }) => key !== 'location');
    const bad = clone(ModelProtoSchema, stored);
    const tensor = bad.graph!.initializer.find(({ name }) => name === outside[0]!.name)!;
    tensor.externalData = [
      ...entry,
      ...(location ? [{ ...entry[0]!, key: 'location', value: location }] : []),
    ];
    const other = join(folder, 'external', 'bad.onnx');
    writeFileSync(other, encodeModel(bad));
    await expect(readModel(other)).rejects.toMatchObject({ code: 'MODEL_INVALID' });
  }
  truncateSync(`${path}_data`, 100);
  await expect(readModel(path)).rejects.toMatchObject({ code: 'FILE_FORMAT' });
  rmSync(`${path}_data`);
  await expect(readModel(path)).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
});

test('a model is written whole or not at all', async () => {
  const path = join(folder, 'plain.onnx');
  await writeModel(path, sample());
  expect(encodeModel(await readModel(path))).toEqual(encodeModel(sample()));
  writeFileSync(join(folder, 'file'), '');
  const inside = join(folder, 'file', 'model.onnx');
  await expect(writeModel(inside, sample())).rejects.toMatchObject({ code: 'FILE_WRITE' });
  expect(existsSync(inside)).toBe(false);
});

test('what is no model is named', async () => {
  await expect(readModel(join(folder, 'none.onnx'))).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    message: expect.stringContaining('none.onnx'),
  });
  const path = join(folder, 'text.onnx');
  for (const content of ['', 'version https://git-lfs.github.com/spec/v1\n', '<html></html>']) {
    writeFileSync(path, content);
    await expect(readModel(path)).rejects.toMatchObject({
      code: 'MODEL_INVALID',
      message: expect.stringContaining('text.onnx'),
    });
  }
});

test('tensors in every form that files hold them', () => {
  const odd = new Uint8Array(13);
  new DataView(odd.buffer).setFloat32(1, 1.5, true);
  new DataView(odd.buffer).setFloat32(5, -2, true);
  const raw = create(TensorProtoSchema, { dataType: 1, dims: [2n], rawData: odd.subarray(1, 9) });
  expect(decodeTensor(raw)).toEqual({ type: 'float32', dims: [2], data: Float32Array.of(1.5, -2) });
  const typed = (dataType: number, fields: object) =>
    decodeTensor(create(TensorProtoSchema, { dataType, dims: [2n], ...fields }));
  expect(typed(1, { floatData: [1, 2] }).data).toEqual(Float32Array.of(1, 2));
  expect(typed(11, { doubleData: [1, 2] }).data).toEqual(Float64Array.of(1, 2));
  expect(typed(7, { int64Data: [1n, -2n] }).data).toEqual(BigInt64Array.of(1n, -2n));
  expect(typed(6, { int32Data: [1, -2] }).data).toEqual(Int32Array.of(1, -2));
  expect(typed(9, { int32Data: [1, 0] }).data).toEqual(Uint8Array.of(1, 0));
  expect(typed(3, { int32Data: [1, -2] }).data).toEqual(Int8Array.of(1, -2));
  expect(typed(10, { int32Data: [0x3c00, 0x4000] }).data).toEqual(Uint16Array.of(0x3c00, 0x4000));
  expect(() => typed(1, { floatData: [1] })).toThrow(/does not hold 2 values/);
  expect(() => typed(8, {})).toThrow(expect.objectContaining({ code: 'MODEL_UNSUPPORTED' }));

  // No copy on the way out.
  const data = Float32Array.of(1, 2, 3);
  expect(encodeTensor('t', { type: 'float32', dims: [3], data }).rawData.buffer).toBe(data.buffer);
});
