import { describe, expect, test } from 'vitest';
import { product } from '../../src/program/attributes.ts';
import type { CreateExecutor, Executor } from '../../src/program/executor.ts';
import { createNativeExecutor } from '../../src/program/native/executor.ts';
import { createExecutor as createOrtExecutor } from '../../src/program/ort/executor.ts';
import { hashed, type TorchCase, torchCase } from './support/torch.ts';

/**
 * Whole models as PyTorch exports them, against PyTorch in float64. Bounds are on the relative error of a whole gradient, and
 * a few times what was seen. Batch norms over few values lose more to rounding than norms over rows.
 */
const MODELS = [
  { name: 'vit', bound: 5e-6 },
  { name: 'text', bound: 5e-6 },
  { name: 'resnet', bound: 3e-5 },
  { name: 'mobilenet', bound: 3e-5 },
];

function relativeError(actual: Float32Array, expected: Float32Array): number {
  const difference = actual.map((value, i) => value - expected[i]!);
  return Math.hypot(...difference) / Math.hypot(...expected);
}

test.each(MODELS)('$name: every tensor is a parameter by its use', async ({ name }) => {
  const { model, tensors } = await torchCase(name);
  expect(model.parameters.map((parameter) => parameter.name).sort()).toEqual(
    tensors.map((tensor) => tensor.name).sort(),
  );
  for (const { name: tensor, trainable, decay, dims } of model.parameters) {
    expect(trainable, tensor).toBe(!/running_(mean|var)$/.test(tensor));
    expect(decay, tensor).toBe(dims.filter((dim) => dim > 1).length >= 2);
  }
});

const EXECUTORS: { kind: string; createExecutor: CreateExecutor }[] = [
  { kind: 'native', createExecutor: createNativeExecutor },
  { kind: 'onnxruntime', createExecutor: createOrtExecutor },
];

describe.each(EXECUTORS)('$kind', ({ createExecutor }) => {
  async function withExecutor<T>(torch: TorchCase, use: (executor: Executor) => Promise<T>): Promise<T> {
    const { graph, parameters } = torch.model;
    const executor = await createExecutor({ graphs: { model: graph }, parameters, threads: 2 });
    try {
      return await use(executor);
    } finally {
      await executor.dispose();
    }
  }

  test.each(MODELS)(
    '$name: output, gradients and running statistics are those of float64',
    async ({ name, bound }) => {
      const torch = await torchCase(name);
      const { expected, output, inputs } = torch;
      await withExecutor(torch, async (executor) => {
        const before = (await executor.save()).parameters.slice();
        const result = (await executor.forward('model', inputs, { training: true })).output!;
        expect(result.dims).toEqual(output);
        expect(relativeError(result.data as Float32Array, expected.output)).toBeLessThan(bound);

        const gradient = { type: 'float32', dims: output, data: hashed(7, product(output)) } as const;
        await executor.backward('model', inputs, { output: gradient });
        const view = (flat: Float32Array, tensor: string) => {
          const { offset, length } = executor.parameters.find((parameter) => parameter.name === tensor)!;
          return flat.subarray(offset, offset + length);
        };
        const moved = (await executor.save()).parameters;
        for (const [tensor, value] of expected.statistics) {
          expect(relativeError(view(moved, tensor), value), tensor).toBeLessThan(bound);
          expect(view(moved, tensor)).not.toEqual(view(before, tensor));
        }
        // A step with β₁ = 0 leaves the gradients in the first moments.
        await executor.update({ rate: 0, decay: 0, betas: [0, 0.9], epsilon: 1e-6 });
        const { first } = await executor.save();
        const largest = Math.max(...[...expected.gradients.values()].map((value) => Math.hypot(...value)));
        for (const [tensor, value] of expected.gradients) {
          const actual = view(first, tensor);
          const error = Math.hypot(...actual.map((x, i) => x - value[i]!));
          // Some gradients are 0 but for rounding, as that of a bias before a batch norm.
          expect(error, tensor).toBeLessThan(bound * Math.hypot(...value) + 1e-6 * largest);
        }
      });
    },
  );

  test.each(MODELS)('$name: 20 steps of AdamW follow the losses of PyTorch', async ({ name }) => {
    const torch = await torchCase(name);
    const { optimiser, output, inputs, losses } = torch;
    const target = hashed(8, product(output));
    await withExecutor(torch, async (executor) => {
      for (const [step, expected] of losses.entries()) {
        const data = (await executor.forward('model', inputs, { training: true })).output!
          .data as Float32Array;
        const difference = data.map((value, i) => value - target[i]!);
        const loss = difference.reduce((sum, value) => sum + value * value, 0) / data.length;
        expect(Math.abs(loss - expected) / expected, `step ${step}`).toBeLessThan(2e-4);
        const gradient = difference.map((value) => (2 * value) / data.length);
        await executor.backward('model', inputs, {
          output: { type: 'float32', dims: output, data: gradient },
        });
        await executor.update(optimiser);
      }
    });
    expect(losses.at(-1)).toBeLessThan(0.6 * losses[0]!);
  });
});
