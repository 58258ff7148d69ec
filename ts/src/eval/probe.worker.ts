import { parentPort, workerData } from 'node:worker_threads';
import { fitLogistic, type LogisticData, predictLogistic } from './logistic.ts';
import type { ProbeAnswer, ProbeTask } from './probe.ts';

const { fit, validation, all, test, grid, maxIterations } = workerData as ProbeTask;

function accuracy(data: LogisticData, parameters: Float64Array): number {
  if (data.rows === 0) return 0;
  const predicted = predictLogistic(data, parameters);
  return predicted.reduce((sum, label, row) => sum + (label === data.labels[row] ? 1 : 0), 0) / data.rows;
}

const tried: ProbeAnswer['validation'] = [];
let best: { l2: number; top1: number; parameters?: Float64Array } = { l2: grid[0]!, top1: -1 };
let start: Float64Array | undefined;
for (const l2 of grid) {
  const { x, iterations } = fitLogistic(fit, l2, start, { maxIterations });
  start = x;
  const top1 = accuracy(validation, x);
  tried.push({ l2, top1, iterations });
  if (top1 > best.top1) best = { l2, top1, parameters: x };
}
const { x, iterations, converged } = fitLogistic(all, best.l2, best.parameters, { maxIterations });
const answer: ProbeAnswer = {
  validation: tried,
  l2: best.l2,
  iterations,
  converged,
  predictions: predictLogistic(test, x),
};
parentPort!.postMessage(answer);
