import {
  expectFloat32,
  expectInteger,
  expectNumber,
  expectPositive,
  failRange,
  failType,
} from '../native/check.ts';
import { expectOptions, type KernelOptions, runNative } from '../native/context.ts';

/** Flat buffers of one length; all are updated in place and must not overlap. */
export interface AdamwBuffers {
  readonly parameters: Float32Array;
  /** Zeroed by the step. */
  readonly gradients: Float32Array;
  /** First and second moments; zeros before the first step. */
  readonly first: Float32Array;
  readonly second: Float32Array;
  /** Moving average of the parameters; required if and only if `ema` is set. */
  readonly ema?: Float32Array;
}

/** A run of parameters that share rates. Groups cover the buffers in order without a gap. */
export interface ParameterGroup {
  readonly length: number;
  /**
   * Factor on the rate, at least 0. Defaults to 1. With 0 the group is frozen: its parameters and moments stay, and its
   * gradients count neither in the norm nor as faults (they are zeroed).
   */
  readonly rate?: number;
  /** Factor on the decay, at least 0. Defaults to 1. */
  readonly decay?: number;
}

export interface AdamwOptions extends KernelOptions {
  /** Number of this step, from 1. */
  readonly step: number;
  /** Learning rate η of this step. */
  readonly rate: number;
  /** Decoupled weight decay λ. Defaults to 0. */
  readonly decay?: number;
  /** β₁ and β₂, each in [0, 1). Defaults to [0.9, 0.999]. */
  readonly betas?: readonly [number, number];
  /** ε over 0. Defaults to 1e-8. */
  readonly epsilon?: number;
  /** Largest norm of the whole gradient, over 0. Defaults to no clipping. */
  readonly clip?: number;
  /** Decay of the moving average, 0 to 1. Defaults to no average. */
  readonly ema?: number;
  /** Defaults to one group of everything. */
  readonly groups?: readonly ParameterGroup[];
}

const OPTIONS = ['step', 'rate', 'decay', 'betas', 'epsilon', 'clip', 'ema', 'groups'];

/**
 * One step of AdamW in place, fused with clipping, the moving average and the zeroing of the gradients.
 *
 * With g the gradient times min(1, clip / (‖gradient‖ + 1e-6)), η and λ with their group's factors:
 *
 *     θ ← θ − η λ θ
 *     m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²
 *     θ ← θ − η / (1 − β₁^step) · m / (√v / √(1 − β₂^step) + ε)
 *     ema ← ema + (1 − d) (θ − ema)
 *
 * as torch.optim.AdamW and torch.nn.utils.clip_grad_norm_ compute them, to float32 rounding. The norm is summed in float64 in
 * an order that depends on the groups alone: the result is the same, bit for bit, for every number of threads.
 *
 * An abort is seen before the first write; a step that has begun to write finishes.
 *
 * @returns The gradient norm before clipping.
 * @throws TypeError or RangeError for arguments; CidError INVALID_DATA, with the buffers untouched, when a gradient is NaN or
 *   infinite; CidError ABORTED.
 */
export async function adamw(buffers: AdamwBuffers, options: AdamwOptions): Promise<{ gradientNorm: number }> {
  expectOptions('options', options, OPTIONS);
  const { parameters, gradients, first, second, ema } = buffers;
  const { length } = expectFloat32('parameters', parameters);
  expectFloat32('gradients', gradients, length);
  expectFloat32('first', first, length);
  expectFloat32('second', second, length);
  if (options.ema !== undefined) {
    expectNumber('ema', options.ema, 0, 1);
    expectFloat32('buffers.ema', ema, length);
  } else if (ema !== undefined) {
    failType('a decay in options.ema together with buffers.ema', 'ema', options.ema);
  }
  expectDistinct({ parameters, gradients, first, second, ...(ema === undefined ? {} : { ema }) });

  expectInteger('step', options.step, 1);
  expectNumber('rate', options.rate, 0);
  const betas = options.betas ?? [0.9, 0.999];
  if (!Array.isArray(betas) || betas.length !== 2) failType('two numbers', 'betas', betas);
  for (const [index, beta] of betas.entries()) {
    if (expectNumber(`betas[${index}]`, beta, 0, 1) === 1)
      failRange('a number below 1', `betas[${index}]`, beta);
  }
  const groups = (options.groups ?? [{ length }]).map((group, index) => ({
    length: expectInteger(`groups[${index}].length`, group.length),
    rate: expectNumber(`groups[${index}].rate`, group.rate ?? 1, 0),
    decay: expectNumber(`groups[${index}].decay`, group.decay ?? 1, 0),
  }));
  const covered = groups.reduce((sum, group) => sum + group.length, 0);
  if (covered !== length) failRange(`groups of ${length} elements together`, 'groups', covered);

  const step = {
    step: options.step,
    rate: options.rate,
    decay: expectNumber('decay', options.decay ?? 0, 0),
    beta1: betas[0],
    beta2: betas[1],
    epsilon: expectPositive('epsilon', options.epsilon ?? 1e-8),
    clip: options.clip === undefined ? 0 : expectPositive('clip', options.clip),
    emaDecay: options.ema ?? 0,
    groups,
  };
  const gradientNorm = await runNative(options, 0, (addon, context) =>
    addon.adamw(
      context,
      { parameters, gradients, first, second, ...(ema === undefined ? {} : { ema }) },
      step,
    ),
  );
  return { gradientNorm };
}

/** Two names for the same memory would be updated twice. */
function expectDistinct(arrays: Record<string, Float32Array>): void {
  const entries = Object.entries(arrays);
  entries.forEach(([name, array], index) => {
    for (const [other, against] of entries.slice(0, index)) {
      const apart =
        array.buffer !== against.buffer ||
        array.byteOffset >= against.byteOffset + against.byteLength ||
        against.byteOffset >= array.byteOffset + array.byteLength;
      if (!apart) failRange(`memory apart from that of ${other}`, name, array);
    }
  });
}
