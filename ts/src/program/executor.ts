import type { DeviceTensor } from '../kernels/device-tensor.ts';
import type { Graph } from './graph.ts';
import type { Precision } from './precision.ts';

/** Elements by type: float32, int32, int64, bool and uint8. */
export interface Tensor {
  readonly dims: readonly number[];
  readonly data: Float32Array | Int32Array | BigInt64Array | Uint8Array;
  readonly type: 'float32' | 'int32' | 'int64' | 'bool' | 'uint8';
}

export type Tensors = Readonly<Record<string, Tensor>>;

/** Tensors of which some are where an executor has them. */
export type AnyTensors = Readonly<Record<string, Tensor | DeviceTensor>>;

/** A slice of the flat parameter buffer. Graphs refer to it by name, and several may share it. */
export interface Parameter {
  readonly name: string;
  readonly dims: readonly number[];
  /** Starting values, `dims` elements. */
  readonly value: Float32Array;
  /** Takes weight decay: true for matrices and kernels, false for norms, biases and scales. */
  readonly decay: boolean;
  /** False for what is kept with the parameters but not learned by gradient (running statistics, frozen layers). */
  readonly trainable: boolean;
  /** Factor on the learning rate. Defaults to 1. */
  readonly rate?: number;
  /** The value is clamped to at most this after an update (logit scales). */
  readonly max?: number;
  readonly min?: number;
}

export interface ExecutorOptions {
  /** Differentiable graphs by name: image tower, text tower, heads. Batch dimensions are taken from the inputs of each call. */
  graphs: Readonly<Record<string, Graph>>;
  parameters: readonly Parameter[];
  /** `'cpu'`, `'cuda'` or `'cuda:N'`, or 'auto', which is the CPU. Our own executor alone has GPUs. Defaults to 'cpu'. */
  device?: string;
  threads?: number;
  /**
   * Bytes that a gradient of one graph may take beside parameters, their gradients and the optimiser's state: activations, and weights
   * in another order. Where they are too few to keep what the backward pass needs, part of the forward pass is run again, with the same
   * results to the bit. A limit that a batch cannot be run in is a RangeError that says what is needed. Our own executor alone has it.
   * Defaults to no limit.
   */
  maxActivationMemory?: number;
  /**
   * Bytes of a GPU's memory, at least 1 MiB, that parameters, their gradients, the optimiser's state and the values of a pass may take
   * together. What does not fit is a `CidError` OUT_OF_MEMORY that says what is needed and what there is, before the pass begins.
   * Defaults to what is free.
   */
  maxDeviceMemory?: number;
  /**
   * Of the large products of training, and on a GPU of convolutions and attention too. Our own executor alone has 'bf16'. Defaults to
   * 'float32', for which a GPU takes six times as many products of bfloat16.
   */
  precision?: Precision;
}

export interface UpdateOptions {
  /** Learning rate of this step. */
  rate: number;
  decay: number;
  betas: readonly [number, number];
  epsilon: number;
  /** Largest norm of the whole gradient; undefined for no clipping. */
  clip?: number;
  /** Decay of the moving average; undefined for none. The average starts as the parameters' values at the first step that asks for one. */
  ema?: number;
}

/** All that a training run must keep to go on with the same bytes. Buffers cover `parameters` in order. */
export interface ExecutorState {
  step: number;
  parameters: Float32Array;
  first: Float32Array;
  second: Float32Array;
  ema?: Float32Array;
}

/**
 * Runs and differentiates programs over one flat parameter buffer. Parameters, gradients and optimiser state stay where the
 * executor keeps them (a worker thread, a device) and leave it only through `save`, or as outputs of a graph that names them.
 * Calls on one executor run one after the other, in the order made.
 */
export interface Executor {
  /** Which executor runs: 'onnxruntime', later 'native'. */
  readonly kind: string;
  readonly parameters: readonly { name: string; dims: readonly number[]; offset: number; length: number }[];
  /**
   * Outputs of a graph by name. `keep` asks to hold what `backward` on the same inputs needs; a hint, `backward` recomputes what is missing.
   * `training` takes the statistics of batch normalisations from the batch, as `backward` always does; it defaults to `keep`.
   * `parameters: 'ema'` evaluates with the moving average instead; with the current values where there is none yet.
   */
  forward(
    graph: string,
    inputs: Tensors,
    options?: { keep?: boolean; training?: boolean; parameters?: 'current' | 'ema' },
  ): Promise<Record<string, Tensor>>;
  /**
   * As `forward`, but matrices of float32 among the outputs stay on the executor's device, and it may resolve before they are made; dispose
   * of them when their last use has been called. Not there in executors that have no memory of their own.
   */
  forwardOnDevice?(
    graph: string,
    inputs: Tensors,
    options?: { keep?: boolean; training?: boolean },
  ): Promise<AnyTensors>;
  /** Rows of several such matrices under each other, in one. */
  concatenate?(parts: readonly DeviceTensor[]): Promise<DeviceTensor>;
  /**
   * Says that the next `forward` or `backward` of a graph will be with these inputs, which nobody changes until then: a device that works
   * for itself takes them meanwhile. It does not wait for the calls made before. Resolves when the inputs have been read.
   */
  prefetch?(graph: string, inputs: Tensors): Promise<void>;
  /** Adds to the gradients; outputs without a gradient count as zero. */
  backward(graph: string, inputs: Tensors, outputGradients: AnyTensors): Promise<void>;
  /** Adds a gradient that a loss computed itself. */
  addGradient(name: string, value: Float32Array | DeviceTensor): Promise<void>;
  /** One AdamW step; zeroes the gradients. */
  update(options: UpdateOptions): Promise<{ gradientNorm: number }>;
  save(): Promise<ExecutorState>;
  load(state: ExecutorState): Promise<void>;
  dispose(): Promise<void>;
}

export type CreateExecutor = (options: ExecutorOptions) => Promise<Executor>;
