// Vectors are arrays of three; a camera is where it stands and its right, down and forward axes.
const add = (a, b, k = 1) => [a[0] + k * b[0], a[1] + k * b[1], a[2] + k * b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const times = (a, k) => [a[0] * k, a[1] * k, a[2] * k];
const unit = (a) => times(a, 1 / (Math.hypot(...a) || 1));
const turned = (v, axis, angle) => {  // Rodrigues.
  const c = Math.cos(angle), s = Math.sin(angle);
  return add(add(times(v, c), cross(axis, v), s), axis, dot(axis, v) * (1 - c));
};
const STEEP = 0.995;  // The view never passes straight up or down.

class Camera {
  constructor(hello) {
    this.home = hello.home; this.center = hello.target; this.up = unit(hello.up); this.radius = hello.radius;
    this.fov = hello.home.fov;
    this.setPose(hello.home.pose);
  }
  setPose(p) {
    this.axes = [unit(p.slice(0, 3)), unit(p.slice(4, 7)), unit(p.slice(8, 11))];
    const t = [p[3], p[7], p[11]];
    this.eye = [0, 1, 2].map((i) => -this.axes.reduce((sum, axis, k) => sum + axis[i] * t[k], 0));
    this.distance = Math.max(dot(add(this.center, this.eye, -1), this.axes[2]), 0.15 * this.radius);
  }
  pose() { return this.axes.flatMap((axis) => [...axis, -dot(axis, this.eye)]); }
  target() { return add(this.eye, this.axes[2], this.distance); }
  settle() {  // Rounding must not shear the axes.
    const forward = unit(this.axes[2]), right = unit(add(this.axes[0], forward, -dot(this.axes[0], forward)));
    this.axes = [right, cross(forward, right), forward];
  }
  rotate(yaw, pitch) {
    const steep = turned(this.axes[2], this.axes[0], pitch);
    const rises = Math.abs(dot(steep, this.up)) > Math.abs(dot(this.axes[2], this.up));
    if (rises && Math.abs(dot(steep, this.up)) > STEEP) pitch = 0;
    const right = this.axes[0];
    this.axes = this.axes.map((axis) => turned(turned(axis, right, pitch), this.up, yaw));
    this.settle();
  }
  orbit(yaw, pitch) {
    const target = this.target();
    this.rotate(yaw, pitch);
    this.eye = add(target, this.axes[2], -this.distance);
  }
  shift(x, y, z) { this.axes.forEach((axis, i) => { this.eye = add(this.eye, axis, [x, y, z][i]); }); }
  zoom(factor) {
    const target = this.target();
    this.distance = Math.min(Math.max(this.distance * factor, 0.01 * this.radius), 50 * this.radius);
    this.eye = add(target, this.axes[2], -this.distance);
  }
  level() {  // The horizon as it should be, the direction kept.
    const right = cross(this.axes[2], this.up);
    if (Math.hypot(...right) > 1e-3) { this.axes[0] = unit(right); this.settle(); }
  }
}

// Drag, wheel, pinch and keys. `state.control` is orbit, fly or turntable; moved() is told of every change.
function controls(stage, camera, state, moved) {
  const pointers = new Map(), keys = new Set();
  let spread = 0;
  const scale = () => 2 * camera.distance * Math.tan(camera.fov / 2) / stage.clientHeight;
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("pointerdown", (event) => {
    if (event.target.id === "line") return;
    stage.setPointerCapture(event.pointerId); stage.classList.add("dragging"); stage.focus({ preventScroll: true });
    pointers.set(event.pointerId, [event.clientX, event.clientY]); spread = 0;
  });
  const release = (event) => {
    pointers.delete(event.pointerId); spread = 0;
    if (!pointers.size) stage.classList.remove("dragging");
  };
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", release);
  stage.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const dx = event.clientX - last[0], dy = event.clientY - last[1];
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (pointers.size === 2) {
      const [a, b] = [...pointers.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (spread) camera.zoom(spread / now);
      spread = now;
      camera.shift(-0.5 * dx * scale(), -0.5 * dy * scale(), 0);
    } else if (event.buttons & 6 || event.shiftKey) camera.shift(-dx * scale(), -dy * scale(), 0);
    else if (state.control === "fly") camera.rotate(0.0025 * dx, 0.0025 * dy);
    else camera.orbit(-0.006 * dx, -0.006 * dy);
    moved();
  });
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const step = event.deltaY * (event.deltaMode === 1 ? 30 : 1);
    if (state.control === "fly") camera.shift(0, 0, -0.0012 * step * camera.radius);
    else camera.zoom(Math.exp(0.0012 * step));
    moved();
  }, { passive: false });
  window.addEventListener("keydown", (event) => {
    if (/INPUT|SELECT|TEXTAREA/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    keys.add(event.code);
  });
  window.addEventListener("keyup", (event) => keys.delete(event.code));
  window.addEventListener("blur", () => keys.clear());
  return function walk(seconds) {  // What held keys and the turntable do in this time.
    const on = (...codes) => codes.some((code) => keys.has(code)) ? 1 : 0;
    const step = seconds * camera.radius * (on("ShiftLeft", "ShiftRight") ? 2.4 : 0.6);
    const x = on("KeyD") - on("KeyA"), y = on("KeyQ") - on("KeyE"), z = on("KeyW") - on("KeyS");
    const stageHas = document.activeElement?.id !== "line";
    const yaw = stageHas ? on("ArrowRight") - on("ArrowLeft") : 0, pitch = on("ArrowUp") - on("ArrowDown");
    if (x || y || z) camera.shift(x * step, y * step, z * step);
    if (yaw || pitch) {
      if (state.control === "fly") camera.rotate(-1.2 * seconds * yaw, 1.2 * seconds * pitch);
      else camera.orbit(1.2 * seconds * yaw, -1.2 * seconds * pitch);
    }
    if (state.control === "turntable" && !pointers.size) camera.orbit(0.35 * seconds, 0);
    if (x || y || z || yaw || pitch) moved();
    else if (state.control === "turntable") moved();
  };
}
