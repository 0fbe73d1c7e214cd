// In the still, x and the tiles are one bitmap of 16 grays: their strokes would be half the page.
const WIDTH = 35, HEIGHT = 28, ROW = 40;
const bitmap = (view) => {
  const rows = range(HEIGHT).map(() => Array(ROW).fill("0"));
  images(view).forEach((image, i) => image.forEach((p, k) => {
    rows[PLACES[i][1] + (k >> 3)][PLACES[i][0] + (k % 8)] = Math.round(SHADES * p).toString(16);
  }));
  const pixels = Buffer.from(rows.reverse().flat().join(""), "hex");
  const grays = range(16).map((k) => (255 - 17 * k) * 0x010101), start = 54 + 4 * grays.length;
  // The sizes of file and header; then width, height, planes and bits; the rest may be 0.
  const words = [start + pixels.length, 0, start, 40, WIDTH, HEIGHT, 1 + (4 << 16), 0, 0, 0, 0, 0, 0, ...grays];
  const file = Buffer.concat([Buffer.from("BM"), Buffer.from(Int32Array.from(words).buffer), pixels]);
  return `data:image/bmp;base64,${file.toString("base64")}`;
};
spec.draw = (view, l) => draw(view, l).replace(/<g class="tiles".*?<\/g>/, `<image x="${l.from}" y="${l.head}" ` +
  `width="${WIDTH * l.pixel}" height="${HEIGHT * l.pixel}" style="image-rendering:pixelated" href="${bitmap(view)}"/>`);
