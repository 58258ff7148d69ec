type Integer = number | bigint;

/** Philox4x32-10 (Salmon et al., SC 2011), in BigInt: the first two words of a draw as one number, word 0 the low one. */
export function philox64(seed: Integer, stream: Integer, index: Integer): bigint {
  const mask = 0xffffffffn;
  const low = (value: bigint) => value & mask;
  const high = (value: bigint) => value >> 32n;
  let [k0, k1] = [low(BigInt(seed)), high(BigInt(seed))];
  let counter = [low(BigInt(index)), high(BigInt(index)), low(BigInt(stream)), high(BigInt(stream))] as const;
  for (let round = 0; round < 10; round++) {
    const first = 0xd2511f53n * counter[0];
    const second = 0xcd9e8d57n * counter[2];
    counter = [high(second) ^ counter[1] ^ k0, low(second), high(first) ^ counter[3] ^ k1, low(first)];
    k0 = low(k0 + 0x9e3779b9n);
    k1 = low(k1 + 0xbb67ae85n);
  }
  return (counter[1] << 32n) | counter[0];
}

/** floor(draw · bound / 2^64): an integer in [0, bound). */
export function scaleDraw(draw: bigint, bound: bigint): bigint {
  return (draw * bound) >> 64n;
}
