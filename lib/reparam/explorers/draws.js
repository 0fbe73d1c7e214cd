// For explorers that draw fresh noise.
// A counter-based generator: draw number and seed decide the noise, whenever it is asked for.
const mix = (x) => {
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
};
const drawn = new Map();
function freshNoise(seed, draw, size) {
  const name = `${seed} ${draw} ${size}`;
  if (drawn.has(name)) return drawn.get(name);
  const key = mix((mix(seed + 1) + draw) >>> 0);
  const uniform = (count) => (mix((key ^ mix(count)) >>> 0) + 0.5) / 4294967296;
  const noise = range(size).map((k) => {
    const radius = Math.sqrt(-2 * Math.log(uniform(2 * k + 1)));
    return Math.round(radius * Math.cos(2 * Math.PI * uniform(2 * k + 2)) * 4096) / 4096;
  });
  drawn.set(name, noise);
  return noise;
}

// The least round number that is no less than x.
const reach = (x) => {
  const unit = 10 ** Math.floor(Math.log10(x));
  return [1, 1.5, 2, 3, 5, 10].map((n) => Number((n * unit).toPrecision(2))).find((n) => n >= x);
};
