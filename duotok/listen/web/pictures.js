/* Pictures. Colours are even steps in OKLCH (Ottosson, 2020): lightness rises with loudness, or falls on light paper. */

function oklch(lightness, chroma, degrees) {
  const a = chroma * Math.cos((degrees * Math.PI) / 180);
  const b = chroma * Math.sin((degrees * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((value) => {
    const clipped = Math.min(1, Math.max(0, value));
    return Math.round(255 * (clipped <= 0.0031308 ? 12.92 * clipped : 1.055 * clipped ** (1 / 2.4) - 0.055));
  });
}

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function scale(dark) {
  return Array.from({ length: 256 }, (_, i) => {
    const share = i / 255;
    const lightness = dark ? 0.14 + 0.8 * share : 0.97 - 0.72 * share;
    return oklch(lightness, 0.17 * Math.sin(Math.PI * share) ** 0.8, 285 + 145 * (dark ? share : 1 - share));
  });
}

function drawPicture(canvas, values, rows, colours) {
  const columns = values.length / rows;
  Object.assign(canvas, { width: columns, height: rows });
  const image = new ImageData(columns, rows);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const colour = colours[values[(rows - 1 - row) * columns + column]];
      image.data.set([...colour, 255], 4 * (row * columns + column));
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function drawCodes(canvas, codes, dark) {
  const step = Math.max(2, Math.round(1600 / codes.length));
  const mark = 7;
  Object.assign(canvas, { width: step * codes.length, height: 260 });
  const context = canvas.getContext("2d");
  codes.forEach((code, i) => {
    const colour = oklch(dark ? 0.78 : 0.55, 0.14, (code * 137.508) % 360); // the golden angle keeps neighbours apart
    context.fillStyle = `rgb(${colour.join(" ")})`;
    context.fillRect(i * step, Math.round((1 - code / data.codebookSize) * (canvas.height - mark)), step, mark);
  });
}
