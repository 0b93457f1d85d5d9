// The canvas: both sides as the mode wants them, frusta over them, the line between them.
class Stage {
  constructor(state, camera, hello) {
    Object.assign(this, { state, camera, hello });
    this.canvas = document.getElementById("canvas");
    this.context = this.canvas.getContext("2d");
    this.line = document.getElementById("line");
    this.sides = {}; this.frame = null; this.phase = 0;
  }
  resize() {
    const box = this.canvas.getBoundingClientRect();
    const density = Math.min(window.devicePixelRatio || 1, Math.sqrt(2.4e6 / Math.max(box.width * box.height, 1)));
    this.canvas.width = Math.max(16, Math.round(box.width * density));
    this.canvas.height = Math.max(16, Math.round(box.height * density));
    this.density = density;
  }
  async take(header, blobs) {
    const images = await Promise.all(blobs.map((blob) => createImageBitmap(blob)));
    if (this.frame && header.seq < this.frame.seq) { images.forEach((image) => image.close()); return false; }
    Object.values(this.sides).forEach((side) => side.image.close());
    this.sides = {};
    header.parts.forEach((part, i) => { this.sides[part.side] = { image: images[i], x0: part.x0, x1: part.x1 }; });
    this.frame = header;
    return true;
  }
  box(side) {  // Where a side's whole picture lies on the canvas.
    const [w, h] = this.frame.size, half = this.frame.mode === "side";
    const width = half ? (this.canvas.width - 2) / 2 : this.canvas.width, height = this.canvas.height;
    const fits = Math.min(width / w, height / h), size = [w * fits, h * fits];
    const left = half && side === "right" ? width + 2 : 0;
    return { x: left + (width - size[0]) / 2, y: (height - size[1]) / 2, w: size[0], h: size[1] };
  }
  draw() {
    const { context: c, canvas, state } = this;
    c.fillStyle = "#101216"; c.fillRect(0, 0, canvas.width, canvas.height);
    if (!this.frame) return;
    const mode = this.frame.mode, box = this.box("left"), cut = box.x + state.swipe * box.w;
    if (mode === "one") this.paint(this.frame.error ? "right" : "left");
    else if (mode === "flicker") this.paint(this.phase ? "right" : "left");
    else if (mode === "side") { this.paint("left"); this.paint("right"); }
    else {
      this.paint("left", 0, cut); this.paint("right", cut, canvas.width);
    }
    if (state.frusta && this.hello.photos.length) {
      if (mode !== "side") this.frusta(box);
      else for (const side of ["left", "right"]) this.frusta(this.box(side));
    }
    this.line.hidden = mode !== "swipe";
    this.line.style.left = `${cut / this.density}px`;
    this.line.setAttribute("aria-valuenow", Math.round(100 * state.swipe));
  }
  paint(name, from = 0, to = this.canvas.width) {
    const side = this.sides[name];
    if (!side) return;
    const box = this.box(name), k = box.w / this.frame.size[0];
    this.context.save();
    this.context.beginPath(); this.context.rect(from, 0, to - from, this.canvas.height); this.context.clip();
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(side.image, box.x + side.x0 * k, box.y, (side.x1 - side.x0) * k, box.h);
    this.context.restore();
  }
  project(point, box) {
    const d = add(point, this.camera.eye, -1), z = dot(d, this.camera.axes[2]);
    if (z < 0.02 * this.camera.radius) return null;
    const focal = 0.5 * box.h / Math.tan(this.camera.fov / 2) / z;
    return [box.x + box.w / 2 + focal * dot(d, this.camera.axes[0]), box.y + box.h / 2 + focal * dot(d, this.camera.axes[1])];
  }
  frusta(box) {
    const c = this.context, [w, h] = this.hello.photo_size;
    this.apexes = [];
    if (this.state.photo !== null) return;  // One stands inside of it.
    c.save();
    c.beginPath(); c.rect(box.x, box.y, box.w, box.h); c.clip();  // Not into the other side.
    c.lineWidth = 1.3 * this.density;
    this.hello.photos.forEach((photo, index) => {
      const p = photo.pose, [fx, , cx, , fy, cy] = photo.K, size = 0.08 * this.camera.radius;
      const axes = [p.slice(0, 3), p.slice(4, 7), p.slice(8, 11)], t = [p[3], p[7], p[11]];
      const eye = [0, 1, 2].map((i) => -axes.reduce((sum, axis, k) => sum + axis[i] * t[k], 0));
      const corner = (x, y) => this.project(add(add(add(eye, axes[0], size * (x - cx) / fx), axes[1], size * (y - cy) / fy), axes[2], size), box);
      const apex = this.project(eye, box), around = [corner(0, 0), corner(w, 0), corner(w, h), corner(0, h)];
      if (!apex || around.includes(null)) return;
      this.apexes.push({ index, x: (apex[0] + around[0][0] + around[2][0]) / 3, y: (apex[1] + around[0][1] + around[2][1]) / 3 });
      c.strokeStyle = index === this.state.lastPhoto ? "#ffd479" : "rgba(94, 196, 196, .5)";
      c.beginPath();
      around.forEach((point, i) => { c.moveTo(...apex); c.lineTo(...point); c.lineTo(...around[(i + 1) % 4]); });
      c.stroke();
    });
    c.restore();
  }
  frustumAt(x, y) {
    let best = null, least = 16 * this.density;
    for (const apex of this.apexes || []) {
      const far = Math.hypot(apex.x - x * this.density, apex.y - y * this.density);
      if (far < least) { least = far; best = apex.index; }
    }
    return this.state.frusta ? best : null;
  }
}
