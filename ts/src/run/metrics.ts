import { closeSync, existsSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { readText, writeError, writeFileAtomic } from './files.ts';

/** A line of `metrics.jsonl`: which stage wrote it, at which of its steps, and what. */
export interface MetricsRecord {
  stage: string;
  step?: number;
  [name: string]: unknown;
}

/**
 * Appends to a `metrics.jsonl`, one object a line. Each line reaches the operating system before `write` returns, so a killed
 * process loses none; a machine that stops may lose the last ones, which a resumed stage writes again.
 */
export class MetricsWriter {
  readonly path: string;
  #descriptor: number | undefined;

  private constructor(path: string, descriptor: number) {
    this.path = path;
    this.#descriptor = descriptor;
  }

  /**
   * Opens for appending. Of what is there, only the records that `keep` accepts stay (all when it is not given), and a last
   * line that was cut short is dropped: a stage that resumes at step s keeps its own records before s and all of the others'.
   */
  static async open(
    path: string,
    keep: (record: MetricsRecord) => boolean = () => true,
  ): Promise<MetricsWriter> {
    if (existsSync(path)) {
      const before = await readText(path);
      const lines = before.split('\n').filter((line) => {
        const record = parseLine(line);
        return record !== undefined && keep(record);
      });
      const after = lines.map((line) => `${line}\n`).join('');
      if (after !== before) await writeFileAtomic(path, after);
    }
    try {
      mkdirSync(dirname(path), { recursive: true });
      return new MetricsWriter(path, openSync(path, 'a'));
    } catch (error) {
      throw writeError(path, error);
    }
  }

  write(record: MetricsRecord): void {
    if (this.#descriptor === undefined) return;
    try {
      writeSync(this.#descriptor, `${JSON.stringify(record)}\n`);
    } catch (error) {
      throw writeError(this.path, error);
    }
  }

  /** Idempotent; what is written afterwards is dropped. */
  close(): void {
    if (this.#descriptor !== undefined) closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }
}

/** Records of a `metrics.jsonl` in order; lines that are cut short are left out, and a missing file has none. */
export async function readMetrics(path: string): Promise<MetricsRecord[]> {
  if (!existsSync(path)) return [];
  const text = await readText(path);
  return text
    .split('\n')
    .map(parseLine)
    .filter((record) => record !== undefined);
}

function parseLine(line: string): MetricsRecord | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return value && typeof value === 'object' && !Array.isArray(value) ? (value as MetricsRecord) : undefined;
  } catch {
    return undefined;
  }
}
