import { CidError } from '../../native/errors.ts';
import { encodeModel } from '../../onnx/model.ts';
import { createSession, type SessionHandle } from '../../onnx/runtime.ts';
import { type Differentiated, differentiate } from '../autodiff.ts';
import { decompose } from '../decompose.ts';
import { OWN } from '../emitter.ts';
import { exportProgram } from '../export.ts';
import { fuse } from '../fuse.ts';
import type { Constant, Graph } from '../graph.ts';
import { type PartCosts, partSizes } from '../parts.ts';
import { type InputDims, type StaticGraph, specialize } from '../static.ts';

/** A graph at fixed shapes, compiled. */
export interface Program {
  readonly graph: Graph;
  /** None when there is nothing to compute. */
  readonly session: SessionHandle | undefined;
  /** What the call asks for that need not be computed. */
  readonly constants: ReadonlyMap<string, Constant>;
}

export interface GradientProgram extends Program {
  readonly differentiated: Differentiated;
}

/** Sessions kept: a few shapes of a few graphs. Each holds the memory of its activations. */
const LARGEST_CACHE = 12;

const COSTS: PartCosts = { cacheBytes: 4 * 2 ** 20, valuesPerParameter: 4, even: false };

/** Compiles graphs for the shapes of a call, once. */
export class Programs {
  readonly #graphs: Readonly<Record<string, Graph>>;
  readonly #threads: number;
  readonly #parts = new Map<string, readonly number[]>();
  readonly #cache = new Map<string, Promise<Program>>();

  constructor(graphs: Readonly<Record<string, Graph>>, threads: number) {
    this.#graphs = graphs;
    this.#threads = threads;
  }

  /** Sizes of the parts that a batch is run in. */
  parts(name: string, dims: InputDims, options: { training: boolean; backward: boolean }): readonly number[] {
    const key = `${name}|${Object.values(options)}|${keyOf(dims)}`;
    let sizes = this.#parts.get(key);
    if (!sizes) {
      sizes = partSizes(this.#graph(name), dims, options, COSTS);
      this.#parts.set(key, sizes);
    }
    return sizes;
  }

  forward(name: string, dims: InputDims, training: boolean): Promise<Program> {
    return this.#cached(`${name}|${training ? 'training' : 'inference'}|${keyOf(dims)}`, () => {
      const specialized = standard(this.#graph(name), dims, training);
      return { graph: specialized.toGraph(computed(specialized)), constants: specialized.constants };
    });
  }

  gradient(
    name: string,
    dims: InputDims,
    learned: ReadonlySet<string>,
    outputs: readonly string[],
  ): Promise<GradientProgram> {
    return this.#cached(`${name}|gradient of ${outputs}|${keyOf(dims)}`, () => {
      const specialized = standard(this.#graph(name), dims, true);
      const used = new Set(specialized.parameters.map((parameter) => parameter.name));
      const wanted = new Set([...learned].filter((parameter) => used.has(parameter)));
      const differentiated = differentiate(specialized, wanted, outputs, { accumulate: true });
      const taken = decompose(differentiated.graph, [OWN]);
      const compiled = taken.toGraph(differentiated.outputs, `${name}:gradient`);
      return { graph: compiled, constants: specialized.constants, differentiated };
    }) as Promise<GradientProgram>;
  }

  #graph(name: string): Graph {
    const graph = this.#graphs[name];
    if (!graph) {
      throw new RangeError(
        `Expected one of ${Object.keys(this.#graphs).join(', ')} for graph but received ${name}`,
      );
    }
    return graph;
  }

  async #cached(key: string, plan: () => Omit<Program, 'session'>): Promise<Program> {
    const known = this.#cache.get(key);
    if (known) {
      // The one used last goes to the end, the first is dropped first.
      this.#cache.delete(key);
      this.#cache.set(key, known);
      return known;
    }
    const compiled = compile(plan, this.#threads);
    this.#cache.set(key, compiled);
    try {
      await compiled;
    } catch (error) {
      this.#cache.delete(key);
      throw error;
    }
    if (this.#cache.size > LARGEST_CACHE) {
      const [oldest, program] = this.#cache.entries().next().value!;
      this.#cache.delete(oldest);
      await (await program).session?.release();
    }
    return compiled;
  }

  async dispose(): Promise<void> {
    for (const program of this.#cache.values()) await (await program).session?.release();
    this.#cache.clear();
  }
}

/** Fused as far as ONNX Runtime has operators for it. */
function standard(graph: Graph, dims: InputDims, training: boolean): StaticGraph {
  return decompose(fuse(specialize(graph, dims, { training })), [OWN]);
}

async function compile(plan: () => Omit<Program, 'session'>, threads: number): Promise<Program> {
  const planned = plan();
  // ONNX Runtime refuses a graph without nodes.
  if (planned.graph.outputs.length === 0) return { ...planned, session: undefined };
  try {
    const session = await createSession(encodeModel(exportProgram(planned.graph)), {
      providers: ['cpu'],
      threads,
      // What matters is fused already, and the gradients' uses of the values forbid the rest.
      optimize: false,
      spin: true,
    });
    return { ...planned, session };
  } catch (error) {
    throw new CidError('MODEL_INVALID', `Graph '${planned.graph.name}': ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function keyOf(dims: InputDims): string {
  return Object.entries(dims)
    .map(([name, sizes]) => `${name}:${sizes.join('x')}`)
    .sort()
    .join(' ');
}

/** Outputs that need a session: not those that are constants or inputs. */
function computed(graph: StaticGraph): string[] {
  const inputs = new Set(graph.inputs.map(({ name }) => name));
  return graph.outputs.filter((name) => !inputs.has(name) && !graph.constants.has(name));
}
