// The page around the splats: controls, what is shown of the figures, the view in the address.
const $ = (id) => document.getElementById(id);
const REST = 180;  // Milliseconds without a change after which the picture is drawn in full.

class Page {
  constructor(scene, splats) {
    const hello = { home: scene.home, target: scene.target, up: scene.up, radius: scene.size };
    Object.assign(this, { splats, bytes: scene.bytes, state: { control: "orbit" }, touched: 0, scale: 1, frames: 0, cost: 16 });
    this.camera = new Camera(hello);
    this.walk = controls($("canvas"), this.camera, this.state, () => this.moved());
    this.fromHash();
    window.addEventListener("hashchange", () => this.fromHash());
    const click = (id, action) => $(id).addEventListener("click", () => { action(); this.moved(); });
    click("home", () => { this.camera.fov = scene.home.fov; this.camera.setPose(scene.home.pose); });
    click("level", () => this.camera.level());
    click("flip", () => { this.camera.up = times(this.camera.up, -1); this.camera.level(); });
    click("turn", () => {
      this.state.control = this.state.control === "orbit" ? "turntable" : "orbit";
      $("turn").setAttribute("aria-pressed", String(this.state.control === "turntable"));
    });
    click("link", () => { history.replaceState(null, "", this.hash()); navigator.clipboard?.writeText(location.href).catch(() => {}); });
    for (let d = splats.degree; d >= 0; d--) $("degree").append(new Option(`SH degree ${d}`, d));
    $("degree").hidden = !splats.degree;
    $("degree").addEventListener("change", () => { splats.degree = Number($("degree").value); this.moved(); });
    $("color").addEventListener("input", () => { this.background($("color").value); });
    requestAnimationFrame((now) => this.tick(now));
  }
  background(hex) { this.splats.behind = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255); this.splats.stale = true; }
  moved() { this.touched = performance.now(); this.splats.stale = true; }
  look(pose, fov) { this.camera.setPose(pose); this.camera.fov = fov; this.splats.stale = true; this.touched = 0; this.settled = false; }
  hash() { return `#pose=${this.camera.pose().map((v) => Number(v.toPrecision(9))).join(",")}&fov=${this.camera.fov.toFixed(6)}`; }
  fromHash() {
    const found = new URLSearchParams(location.hash.slice(1)), pose = (found.get("pose") || "").split(",").map(Number), fov = Number(found.get("fov"));
    if (pose.length === 12 && pose.every(Number.isFinite) && fov > 0.03 && fov < 2.7) this.look(pose, fov);
  }
  tell(moving) {
    const { splats, frames } = this;
    this.told = frames;
    $("facts").textContent = `${splats.count.toLocaleString("en")} Gaussians in ${(this.bytes / 1e6).toFixed(2)} MB, ${moving ? `${(1000 / this.cost).toFixed(0)} frames/s, ` : ""}${splats.width}\u00d7${splats.height}`;
  }
  tick(now) {
    const seconds = Math.min((now - (this.last ?? now)) / 1000, 0.1), { splats, camera } = this, canvas = $("canvas");
    this.cost += 0.1 * (Math.min(now - (this.last ?? now), 1000) - this.cost);
    this.last = now;
    this.walk(seconds);
    const moving = now - this.touched < REST;
    if (moving && this.cost > 55) this.scale = Math.max(0.3, this.scale * 0.93);
    else if (moving && this.cost < 25) this.scale = Math.min(1, this.scale * 1.04);
    const scale = (moving ? this.scale : 1) * Math.min(window.devicePixelRatio || 1, 2);
    splats.resize(Math.max(1, Math.round(canvas.clientWidth * scale)), Math.max(1, Math.round(canvas.clientHeight * scale)));
    const ready = splats.look(camera);
    if (splats.stale) { splats.draw(camera); this.frames += 1; }
    this.settled = ready && !splats.stale && !moving;
    if ((this.settled || this.frames % 8 === 0) && this.frames !== this.told) this.tell(moving);
    requestAnimationFrame((next) => this.tick(next));
  }
}
(async () => {
  try {
    const scene = JSON.parse($("scene").textContent), text = atob($("data").textContent);
    const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    $("data").remove();
    const splats = await decodeFpz(bytes, async (share) => {  // A pause lets the page be painted.
      $("notice").textContent = `decoding, ${Math.round(100 * share)} %`;
      await new Promise((next) => setTimeout(next, 20));
    });
    scene.bytes = bytes.length;
    window.fieldpress = new Page(scene, new Splats($("canvas"), splats));
    $("notice").remove();
  } catch (error) { $("notice").textContent = `cannot show the scene: ${error.message}`; window.fieldpressError = String(error); }
})();
