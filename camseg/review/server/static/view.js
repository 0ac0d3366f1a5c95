// The image with what lies over it, moved and zoomed.

const MASK = [0, 200, 255];
const SURE = [70, 220, 90], NOT = [255, 80, 60];
const HEAT = Array.from({ length: 256 }, (_, level) => {
  const share = level / 255;
  return [255 * Math.min(1, 1.6 * share), 255 * Math.max(0, 1.7 * share - .7), 255 * Math.max(0, .5 - Math.abs(share - .35))];
});

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.layer = document.createElement("canvas");
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.options = { mask: true, cam: false, trimap: false, hidden: false, opacity: .35, brightness: 1, contrast: 1 };
    this.cross = null;
    this.pointer = null;
    this.pending = false;
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  show(item) {
    this.item = item;
    this.layer.width = item.width;
    this.layer.height = item.height;
    this.overlay = this.layer.getContext("2d").createImageData(item.width, item.height);
    this.cross = null;
    this.fit();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const box = this.canvas.getBoundingClientRect();
    this.canvas.width = Math.max(1, Math.round(box.width * ratio));
    this.canvas.height = Math.max(1, Math.round(box.height * ratio));
    if (this.item && !this.moved) this.fit(); else this.draw();
  }

  fit() {
    if (!this.item) return;
    this.moved = false;
    this.scale = Math.min(this.canvas.width / this.item.width, this.canvas.height / this.item.height);
    this.x = (this.canvas.width - this.item.width * this.scale) / 2;
    this.y = (this.canvas.height - this.item.height * this.scale) / 2;
    this.draw();
  }

  // Where a point of the window lies in the image, in pixels; pixel (0, 0) reaches from -0.5 to 0.5.
  at(event) {
    const box = this.canvas.getBoundingClientRect(), ratio = this.canvas.width / box.width;
    return {
      x: ((event.clientX - box.left) * ratio - this.x) / this.scale - .5,
      y: ((event.clientY - box.top) * ratio - this.y) / this.scale - .5,
    };
  }

  zoom(factor, event) {
    if (!this.item) return;
    const box = this.canvas.getBoundingClientRect(), ratio = this.canvas.width / box.width;
    const cx = event ? (event.clientX - box.left) * ratio : this.canvas.width / 2;
    const cy = event ? (event.clientY - box.top) * ratio : this.canvas.height / 2;
    const scale = Math.min(64, Math.max(.02, this.scale * factor));
    this.x = cx - (cx - this.x) * scale / this.scale;
    this.y = cy - (cy - this.y) * scale / this.scale;
    this.scale = scale;
    this.moved = true;
    this.draw();
  }

  pan(dx, dy) {
    const ratio = this.canvas.width / this.canvas.getBoundingClientRect().width;
    this.x += dx * ratio;
    this.y += dy * ratio;
    this.moved = true;
    this.draw();
  }

  // Paints what lies over the image anew, then all; once per frame.
  refresh() {
    this.stale = true;
    this.draw();
  }

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.paint();
    });
  }

  paint() {
    const { context, canvas, item, options } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!item) return;
    context.setTransform(this.scale, 0, 0, this.scale, this.x, this.y);
    context.imageSmoothingEnabled = this.scale < 2;
    context.filter = options.brightness === 1 && options.contrast === 1
      ? "none" : `brightness(${options.brightness}) contrast(${options.contrast})`;
    if (item.bitmap) context.drawImage(item.bitmap, 0, 0, item.width, item.height);
    context.filter = "none";
    if (!options.hidden) {
      if (this.stale) this.compose();
      context.drawImage(this.layer, 0, 0);
    }
    this.drawMarks();
    if (this.onPaint) { const told = this.onPaint; this.onPaint = null; told(); }
  }

  drawMarks() {
    const { context } = this;
    context.lineWidth = 1.5 / this.scale;
    if (this.pointer && this.radius) {
      context.beginPath();
      context.arc(this.pointer.x + .5, this.pointer.y + .5, this.radius, 0, 2 * Math.PI);
      context.strokeStyle = "#fff";
      context.stroke();
    }
    if (this.cross) {
      const arm = 12 / this.scale, { x, y } = this.cross;
      context.beginPath();
      context.moveTo(x + .5 - arm, y + .5);
      context.lineTo(x + .5 + arm, y + .5);
      context.moveTo(x + .5, y + .5 - arm);
      context.lineTo(x + .5, y + .5 + arm);
      context.strokeStyle = "#ff0";
      context.stroke();
    }
  }

  compose() {
    this.stale = false;
    const { item, options } = this, { data } = this.overlay, { width, height, mask, strokes } = item;
    const opacity = Math.round(255 * options.opacity);
    data.fill(0);
    if (options.cam && item.cam) this.spread((place) => HEAT[item.cam.data[4 * place]], () => 150);
    if (options.trimap && item.trimap) {
      this.spread((place) => item.trimap.data[4 * place] === 128 ? [255, 210, 0] : [0, 200, 255],
        (place) => item.trimap.data[4 * place] ? 110 : 0);
    }
    if (options.mask) {
      for (let y = 0, place = 0; y < height; y++) {
        for (let x = 0; x < width; x++, place++) {
          if (!mask[place]) continue;
          const rim = (x > 0 && !mask[place - 1]) || (x + 1 < width && !mask[place + 1])
            || (y > 0 && !mask[place - width]) || (y + 1 < height && !mask[place + width]);
          const alpha = rim ? 255 : opacity, at = 4 * place;
          if (alpha < data[at + 3] && !rim) continue;
          data[at] = MASK[0];
          data[at + 1] = MASK[1];
          data[at + 2] = MASK[2];
          data[at + 3] = alpha;
        }
      }
      for (let place = 0; place < strokes.length; place++) {
        if (!strokes[place] || !this.strokesShown) continue;
        const color = strokes[place] === 1 ? SURE : NOT;
        data.set([...color, 120], 4 * place);
      }
    }
    this.layer.getContext("2d").putImageData(this.overlay, 0, 0);
  }

  spread(color, alpha) {
    const { data } = this.overlay, count = this.item.width * this.item.height;
    for (let place = 0; place < count; place++) {
      const opaque = alpha(place);
      if (!opaque) continue;
      const [red, green, blue] = color(place), at = 4 * place;
      data[at] = red;
      data[at + 1] = green;
      data[at + 2] = blue;
      data[at + 3] = opaque;
    }
  }
}
