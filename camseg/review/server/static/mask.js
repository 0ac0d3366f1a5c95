// Masks as Uint8Array of 0 and 1, row by row: pure functions.

export function area(mask) {
  let count = 0;
  for (let place = 0; place < mask.length; place++) count += mask[place];
  return count;
}

export function equal(one, other) {
  if (one.length !== other.length) return false;
  for (let place = 0; place < one.length; place++) if (one[place] !== other[place]) return false;
  return true;
}

// The red channel of RGBA pixels, where it is above a level.
export function above(pixels, level) {
  const { data } = pixels;
  const mask = new Uint8Array(data.length / 4);
  for (let place = 0; place < mask.length; place++) mask[place] = data[4 * place] > level ? 1 : 0;
  return mask;
}

// The lowest level of the map in the mask, less one: the level that gives about this mask.
export function levelOf(pixels, mask) {
  const { data } = pixels;
  const counts = new Uint32Array(256);
  let total = 0;
  for (let place = 0; place < mask.length; place++) {
    if (mask[place]) { counts[data[4 * place]]++; total++; }
  }
  if (!total) return 255;
  // A refined mask has a few pixels far below its level: as many pixels lie above the level as the mask has.
  const all = new Uint32Array(256);
  for (let place = 0; place < mask.length; place++) all[data[4 * place]]++;
  let seen = 0;
  for (let level = 255; level > 0; level--) {
    seen += all[level];
    if (seen >= total) return level - 1;
  }
  return 0;
}

// The connected piece (8 neighbours) of pixels equal to that at (x, y), as places.
export function piece(mask, width, height, x, y) {
  const start = y * width + x, value = mask[start];
  const seen = new Uint8Array(mask.length);
  const places = [start];
  seen[start] = 1;
  for (let head = 0; head < places.length; head++) {
    const place = places[head], column = place % width, row = (place - column) / width;
    for (let dy = -1; dy <= 1; dy++) {
      for (let dx = -1; dx <= 1; dx++) {
        const cx = column + dx, cy = row + dy;
        if (cx < 0 || cy < 0 || cx >= width || cy >= height) continue;
        const next = cy * width + cx;
        if (!seen[next] && mask[next] === value) { seen[next] = 1; places.push(next); }
      }
    }
  }
  return places;
}

// Sets all pixels within a radius of the line from one point to another.
export function paintLine(mask, width, height, from, to, radius, value) {
  const length = Math.hypot(to.x - from.x, to.y - from.y);
  const steps = Math.max(1, Math.ceil(length / Math.max(1, radius / 2)));
  for (let step = 0; step <= steps; step++) {
    const cx = from.x + (to.x - from.x) * step / steps, cy = from.y + (to.y - from.y) * step / steps;
    const top = Math.max(0, Math.ceil(cy - radius)), bottom = Math.min(height - 1, Math.floor(cy + radius));
    for (let y = top; y <= bottom; y++) {
      const reach = Math.sqrt(radius * radius - (y - cy) * (y - cy));
      const left = Math.max(0, Math.ceil(cx - reach)), right = Math.min(width - 1, Math.floor(cx + reach));
      if (right >= left) mask.fill(value, y * width + left, y * width + right + 1);
    }
  }
}

// A PNG whose red is the mask, green what was painted as object, and blue what was painted as none.
export function toPng(width, height, mask, strokes) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let place = 0; place < mask.length; place++) {
    image.data[4 * place] = mask[place] ? 255 : 0;
    image.data[4 * place + 1] = strokes && strokes[place] === 1 ? 255 : 0;
    image.data[4 * place + 2] = strokes && strokes[place] === 2 ? 255 : 0;
    image.data[4 * place + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
