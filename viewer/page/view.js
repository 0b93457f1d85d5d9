// The client: what is looked at, the socket, and a loop that asks for pictures and draws them.
const REST = 140;  // Milliseconds without a change after which a full picture is asked for.
const ON_THE_WAY = 2;  // Pictures asked for and not yet there, at most.
const $ = (id) => document.getElementById(id);

class App {
  constructor(socket, hello) {
    const second = hello.exhibits.length > 1 ? 1 : 0;
    Object.assign(this, { socket, hello });
    this.state = { mode: hello.exhibits.length > 1 ? "swipe" : "one", swipe: 0.5, error: false, gain: 8, rate: 1.5, control: "orbit", time: 0,
      background: [0, 0, 0], left: { exhibit: 0, knobs: {} }, right: { exhibit: second, knobs: {} },
      photo: null, lastPhoto: null, photoLeft: false, beside: true, frusta: hello.photos.length > 0 };
    this.camera = new Camera(hello);
    this.path = new Path();
    for (const name of ["act", "moved", "goHome", "level", "flip", "aim", "jump", "nearest", "play", "addKey", "goTo", "picture", "redraw"])
      this[name] = this[name].bind(this);
    const stops = hello.heat.map((color) => `rgb(${color.map((v) => Math.round(255 * v)).join(" ")})`);
    $("legend").querySelector("i").style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
    this.stage = new Stage(this.state, this.camera, hello);
    this.parts = buildPanel(this);
    this.walk = controls($("stage"), this.camera, this.state, this.moved);
    Object.assign(this, { sent: 0, seen: 0, dirty: true, resting: true, touched: 0, asked: new Map(), arrivals: [], latency: null, frames: 0, playing: null });
    this.listen();
    this.act({});
    requestAnimationFrame((now) => this.tick(now));
  }
  listen() {
    new ResizeObserver(() => { this.stage.resize(); this.act({}, true); }).observe($("stage"));
    const line = $("line"), swipe = (event) => {
      const box = this.stage.frame ? this.stage.box("left") : null;
      if (!box) return;
      const x = (event.clientX - $("canvas").getBoundingClientRect().left) * this.stage.density;
      this.setSwipe((x - box.x) / box.w);
    };
    line.addEventListener("pointerdown", (event) => { line.setPointerCapture(event.pointerId); event.preventDefault(); line.focus(); });
    line.addEventListener("pointermove", (event) => { if (line.hasPointerCapture(event.pointerId)) swipe(event); });
    line.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
      if (by) { this.setSwipe(this.state.swipe + by); event.preventDefault(); }
    });
    let down = null;
    $("stage").addEventListener("pointerdown", (event) => { down = [event.clientX, event.clientY]; });
    $("stage").addEventListener("pointerup", (event) => {
      if (!down || Math.hypot(event.clientX - down[0], event.clientY - down[1]) > 4) return;
      const box = $("canvas").getBoundingClientRect(), index = this.stage.frustumAt(event.clientX - box.left, event.clientY - box.top);
      if (index !== null) this.jump(index);
    });
    $("stage").addEventListener("dblclick", (event) => this.pick(event));
    $("fold").addEventListener("click", () => {
      const open = !document.body.classList.toggle("folded");
      $("fold").setAttribute("aria-expanded", String(open));
    });
    window.addEventListener("keydown", (event) => {
      if (/INPUT|SELECT|TEXTAREA/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
      const mode = { 1: "one", 2: "swipe", 3: "side", 4: "flicker" }[event.key], key = event.key.toLowerCase();
      if (mode) this.act({ mode });
      else if (key === "h") this.act({ error: !this.state.error });
      else if (key === "k") this.addKey();
      else if (key === "p") this.picture();
    });
  }
  act(change, live = false) {  // Anything but the camera has changed.
    Object.assign(this.state, change);
    if (change.photoLeft !== undefined && change.photoLeft && this.state.photo === null) this.nearest();
    for (const name of ["mode", "control", "error"]) this.parts[name].update();
    this.parts.photoLeft?.update();
    for (const side of ["left", "right"]) if (side in change) this.parts[side]();
    this.parts.gain.hidden = !this.state.error; this.parts.rate.hidden = this.state.mode !== "flicker";
    this.dirty = true;
    this.touched = live ? performance.now() : 0;  // A click is answered with the full picture at once.
    if ("beside" in change) this.showPhoto();
  }
  moved(keepPhoto = false) {
    this.dirty = true; this.touched = performance.now();
    if (!keepPhoto && this.state.photo !== null) { this.state.photo = null; this.parts.photo(); this.showPhoto(); }
    if (!keepPhoto && this.playing) { this.playing = null; this.parts.playing(false); }
  }
  setSwipe(value) {
    this.state.swipe = Math.min(Math.max(value, 0), 1);
    const sides = Object.values(this.stage.sides);
    if (sides.some((side) => side.x1 - side.x0 < this.stage.frame.size[0])) { this.dirty = true; this.touched = performance.now(); }
    this.redraw();
  }
  view() {
    const s = this.state, slot = (name) => (name === "left" && s.photoLeft && s.photo !== null ? { exhibit: -1 } : s[name]);
    return { pose: this.camera.pose(), fov: this.camera.fov, size: [this.stage.canvas.width, this.stage.canvas.height], left: slot("left"), right: slot("right"),
      mode: s.mode, swipe: s.swipe, error: s.error, gain: s.gain, background: s.background, photo: s.photo, time: s.time };
  }
  send(message) { if (this.socket.readyState === 1) this.socket.send(JSON.stringify(message)); }
  tick(now) {
    const seconds = Math.min((now - (this.last ?? now)) / 1000, 0.1);
    this.last = now;
    this.walk(seconds);
    if (this.playing) this.advance(now);
    if (this.turning) this.turn(now);
    const moving = now - this.touched < REST, waiting = this.sent - this.seen;
    if (this.dirty ? waiting < ON_THE_WAY : !this.resting && !moving && waiting === 0) {
      this.sent += 1;
      this.send({ type: "view", seq: this.sent, moving, ...this.view() });
      this.asked.set(this.sent, now);
      this.dirty = false; this.resting = !moving;
    }
    if (this.state.mode === "flicker") {
      const phase = Math.floor(now / 1000 * this.state.rate * 2) % 2;
      if (phase !== this.stage.phase) { this.stage.phase = phase; this.stale = true; this.tags(); }
    }
    if (this.stale) { this.stale = false; this.stage.draw(); }
    requestAnimationFrame((next) => this.tick(next));
  }
  redraw() { this.stale = true; }
  async take(header, data) {
    if (header.type === "frame") {
      let at = 0;
      const blobs = header.parts.map((part) => new Blob([data.subarray(at, at += part.bytes)], { type: "image/jpeg" }));
      if (!(await this.stage.take(header, blobs))) return;
      const now = performance.now();
      if (this.asked.has(header.seq)) this.latency = now - this.asked.get(header.seq);  // Else the same view, finer.
      for (const seq of this.asked.keys()) if (seq <= header.seq) this.asked.delete(seq);
      this.seen = Math.max(this.seen, header.seq); this.frames += 1;
      this.arrivals = this.arrivals.filter((t) => now - t < 2000); this.arrivals.push(now);
      this.stage.draw();
      this.report(header);
    } else if (header.type === "photo") {
      const figure = $("photo");
      URL.revokeObjectURL(figure.firstElementChild.src);
      figure.firstElementChild.src = URL.createObjectURL(new Blob([data], { type: "image/jpeg" }));
      figure.lastElementChild.textContent = this.hello.photos[header.index].name;
    } else if (header.type === "file") this.download(new Blob([data], { type: header.mime }), header.name);
  }
  report(header) {
    const n = this.arrivals.length, span = n > 1 ? this.arrivals[n - 1] - this.arrivals[0] : 0;
    this.fps = span > 0 ? 1000 * (n - 1) / span : 0;
    const [w, h] = header.size;
    $("hud").replaceChildren(...(header.moving ? [element("b", { textContent: this.fps.toFixed(0) }), " frames/s, "] : []),
      `${w}\u00d7${h}, ${(1000 * header.seconds).toFixed(0)} ms to render`, ...(header.waiting ? [", finer tiles to come"] : []));
    if (!header.moving) {
      $("score").hidden = header.psnr === null;
      const photo = this.state.photoLeft && header.photo !== null;
      $("score").replaceChildren(element("b", { textContent: header.psnr >= 99.95 ? "identical" : `${header.psnr?.toFixed(2)} dB` }),
        element("span", { textContent: photo ? "PSNR of this view to the photograph" : "PSNR of this view, right to left" }));
    } else $("score").hidden = true;
    const facts = header.facts, keys = [...new Set(Object.values(facts).flatMap((side) => Object.keys(side)))];
    const text = (key, v) => (v === undefined ? "" : key === "bytes" ? bytesText(v) : typeof v === "number" ? v.toLocaleString("en") : String(v));
    this.parts.figures.replaceChildren(...keys.map((key) => element("tr", {}, element("th", { textContent: key }),
      element("td", { textContent: text(key, facts.left?.[key]) }), element("td", { textContent: text(key, facts.right?.[key]) }))),
      element("tr", {}, element("th", { textContent: "answer, ms" }), element("td", { textContent: this.latency.toFixed(0) }), element("td")));
    $("legend").hidden = !header.error;
    $("legend-end").textContent = `${(100 / this.state.gain).toFixed(1)} % of full brightness and more`;
    this.tags();
  }
  tags() {
    const frame = this.stage.frame, name = (side) => {
      const { exhibit, knobs } = this.state[side], shown = this.hello.exhibits[exhibit], changed = shown.knobs.filter((k) => (knobs[k.name] ?? k.value) !== k.value);
      if (side === "left" && this.state.photoLeft && this.state.photo !== null) return `photograph ${this.hello.photos[this.state.photo].name}`;
      return [shown.name, ...changed.map((k) => `${k.label} ${k.labels.length ? k.labels[knobs[k.name]] : knobs[k.name]}`)].join(", ");
    };
    if (!frame) return;
    const left = frame.mode === "one" ? !frame.error : frame.mode !== "flicker" || !this.stage.phase;
    const right = frame.mode === "one" ? frame.error : frame.mode !== "flicker" || this.stage.phase;
    $("tag-left").hidden = !left; $("tag-right").hidden = !right;
    $("tag-left").textContent = name("left");
    $("tag-right").textContent = `${frame.error ? `error \u00d7${Math.round(this.state.gain)} of ` : ""}${name("right")}`;
  }
  problem(text) { this.seen = this.sent; this.parts.progress(null); this.notice(text); }
  notice(text) {
    $("notice").textContent = text; $("notice").hidden = false;
    clearTimeout(this.noticing); this.noticing = setTimeout(() => { $("notice").hidden = true; }, 6000);
  }
  goHome() { this.camera.fov = this.camera.home.fov; this.camera.setPose(this.camera.home.pose); this.parts.fov.update(this.camera.fov * 180 / Math.PI); this.moved(); this.touched = 0; }
  level() { this.camera.level(); this.moved(); this.touched = 0; }
  flip() { this.camera.up = times(this.camera.up, -1); this.camera.level(); this.moved(); this.touched = 0; }
  pick(event) {  // What is seen there is to be the middle of the orbit: ask where that is.
    const canvas = $("canvas").getBoundingClientRect(), { stage, state } = this;
    if (!stage.frame || event.target.id === "line") return;
    const x = (event.clientX - canvas.left) * stage.density, y = (event.clientY - canvas.top) * stage.density;
    const right = { one: stage.frame.error, side: x > stage.canvas.width / 2, swipe: x > stage.box("left").x + state.swipe * stage.box("left").w, flicker: stage.phase }[stage.frame.mode];
    const side = right ? "right" : "left", box = stage.box(side), at = [(x - box.x) / box.w, (y - box.y) / box.h];
    if (at.every((v) => v >= 0 && v <= 1)) this.send({ type: "place", seq: 0, moving: false, ...this.view(), side, at });
  }
  turnTo(place) {
    const { camera } = this, way = add(place, camera.eye, -1), to = Object.assign(Object.create(Camera.prototype), { ...camera });
    to.axes = [camera.axes[0], camera.axes[1], unit(way)];
    if (Math.abs(dot(to.axes[2], camera.up)) < STEEP) to.level(); else to.settle();
    this.turning = { start: performance.now(), from: quaternion(camera.axes), to: quaternion(to.axes), near: camera.distance, far: Math.hypot(...way) };
  }
  turn(now) {
    const { start, from, to, near, far } = this.turning, t = Math.min((now - start) / 350, 1), s = t * t * (3 - 2 * t);
    const sign = from.reduce((sum, v, i) => sum + v * to[i], 0) < 0 ? -1 : 1, mixed = from.map((v, i) => v * (1 - s) + sign * to[i] * s), size = Math.hypot(...mixed);
    this.camera.axes = axesOf(mixed.map((v) => v / size)); this.camera.distance = near + (far - near) * s;
    this.moved();
    if (t === 1) this.turning = null;
  }
  aim() {  // Turn to the middle of the scene and circle that.
    const { camera } = this, way = add(camera.center, camera.eye, -1);
    camera.distance = Math.max(Math.hypot(...way), 0.05 * camera.radius);
    camera.axes[2] = unit(way); camera.level(); camera.settle(); this.moved(); this.touched = 0;
  }
  jump(index) {
    const photo = this.hello.photos[index];
    this.state.photo = this.state.lastPhoto = index;
    this.camera.setPose(photo.pose);
    this.camera.fov = 2 * Math.atan(0.5 * this.hello.photo_size[1] / photo.K[4]);
    this.parts.fov.update(this.camera.fov * 180 / Math.PI);
    this.parts.photo(); this.showPhoto();
    this.dirty = true; this.touched = 0; this.playing = null;
  }
  nearest() {
    const cost = this.hello.photos.map((photo) => {
      const other = new Camera({ ...this.hello, home: { pose: photo.pose, fov: 1 } });
      return Math.hypot(...add(other.eye, this.camera.eye, -1)) / this.camera.radius + 1 - dot(other.axes[2], this.camera.axes[2]);
    });
    this.jump(cost.indexOf(Math.min(...cost)));
  }
  showPhoto() {
    const index = this.state.photo;
    $("photo").hidden = index === null || !this.state.beside;
    if (index !== null && this.shownPhoto !== index) { this.shownPhoto = index; this.send({ type: "photo", index }); }
  }
  addKey() { this.path.add(this.camera, this.state.time); this.parts.path(); }
  goTo(key) {
    Object.assign(this.camera, { eye: [...key.eye], axes: axesOf(key.turn || quaternion(key.axes)), fov: key.fov, distance: key.distance });
    this.state.time = key.time; this.moved(); this.touched = 0;
  }
  play() {
    this.playing = this.playing || this.path.keys.length < 2 ? null : performance.now();
    this.parts.playing(Boolean(this.playing));
  }
  advance(now) {
    const share = (now - this.playing) / 1000 / this.path.seconds;
    if (share > 1) this.playing = null;
    const { eye, axes, fov, distance, time } = this.path.at(Math.min(share, 1));
    Object.assign(this.camera, { eye, axes, fov, distance }); this.state.time = time; this.state.photo = null;
    this.moved(true);
    this.parts.playing(Boolean(this.playing));
  }
  exportVideo(size) {
    const fps = 30, holder = new Camera(this.hello), path = this.path.samples(fps).map(({ eye, axes, fov, time }) => {
      Object.assign(holder, { eye, axes });
      return { pose: holder.pose(), fov, time };
    });
    const wanted = size === "canvas" ? this.view().size.map((v) => v - v % 2) : size.split("x").map(Number);
    const mode = this.state.mode === "flicker" ? "swipe" : this.state.mode;
    this.parts.progress(0);
    const { left, right } = this.state;
    this.send({ type: "video", seq: 0, moving: false, ...this.view(), left, right, mode, photo: null, size: wanted, fps, path });
  }
  cancel() { this.send({ type: "cancel" }); }
  picture() { this.send({ type: "picture", seq: 0, moving: false, ...this.view() }); }
  download(blob, name) {
    const link = element("a", { href: URL.createObjectURL(blob), download: name });
    this.files = (this.files || 0) + 1;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
}

function connect() {
  const address = new URL("ws", window.location.href);
  address.protocol = window.location.protocol === "https:" ? "wss:" : "ws:"; address.search = window.location.search;
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.addEventListener("message", ({ data }) => {
    if (typeof data === "string") {
      const message = JSON.parse(data), app = window.fieldpress;
      if (message.type === "hello") {
        if (app) app.socket = socket; else window.fieldpress = new App(socket, message);
        if (app) { app.seen = app.sent; app.act({}); app.parts.link.textContent = ""; }
      } else if (message.type === "problem") app.problem(message.text);
      else if (message.type === "place" && message.place) app.turnTo(message.place);
      else if (message.type === "progress") app.parts.progress(message.done < 1 ? message.done : null);
      return;
    }
    const length = new DataView(data).getUint32(0, true);
    window.fieldpress.take(JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length))), new Uint8Array(data, 4 + length));
  });
  socket.addEventListener("close", () => {
    if (window.fieldpress) window.fieldpress.parts.link.textContent = "connection lost";
    setTimeout(connect, 1500);
  });
}
connect();
