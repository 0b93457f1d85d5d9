// The panel: plain elements, built once; act(what) tells view.js what was changed.
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}
const bytesText = (n) => (n >= 1e6 ? `${(n / 1e6).toFixed(2)} MB` : n >= 1e3 ? `${(n / 1e3).toFixed(1)} kB` : `${n} B`);
const button = (text, onclick, more = {}) => element("button", { type: "button", textContent: text, onclick, ...more });

function segments(label, choices, get, set) {
  const buttons = choices.map(([value, text, title]) =>
    button(text, () => { set(value); update(); }, { title: title || text, value }));
  const update = () => buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.value === String(get()))));
  const box = element("div", { className: "segments", role: "group", ariaLabel: label }, ...buttons);
  box.update = update;
  update();
  return box;
}
function slider(label, { low, high, step, value, labels }, set, show = (v) => String(Number(v.toFixed(2)))) {
  const words = (v) => (labels && labels.length ? labels[Math.round((v - low) / step)] : show(v));
  const output = element("output", { textContent: words(value) });
  const input = element("input", { type: "range", min: low, max: high, step, value, ariaLabel: label });
  input.addEventListener("input", () => { output.textContent = words(Number(input.value)); set(Number(input.value)); });
  const whole = element("label", { className: "slider" }, element("span", {}, label, output), input);
  whole.update = (v) => { input.value = v; output.textContent = words(v); };
  return whole;
}
function check(label, get, set) {
  const input = element("input", { type: "checkbox", checked: get(), onchange: () => set(input.checked) });
  const whole = element("label", { className: "check" }, input, label);
  whole.update = () => { input.checked = get(); };
  return whole;
}
const group = (title, open, ...children) => element("details", { open }, element("summary", { textContent: title }), ...children);

function buildPanel(app) {
  const { hello, state, act } = app, parts = {};
  parts.mode = segments("Mode", [["one", "One", "Only the left side (1)"], ["swipe", "Swipe", "A line between both (2)"],
    ["side", "Side", "Side by side (3)"], ["flicker", "Flicker", "Both in turn (4)"]], () => state.mode, (v) => act({ mode: v }));
  parts.error = check("error map on the right (H)", () => state.error, (v) => act({ error: v }));
  parts.gain = slider("error times", { low: 0, high: 6, step: 0.5, value: Math.log2(state.gain) }, (v) => act({ gain: 2 ** v }), (v) => `\u00d7${Math.round(2 ** v)}`);
  parts.rate = slider("flicker, times a second", { low: 0.5, high: 8, step: 0.5, value: state.rate }, (v) => { state.rate = v; });
  const compare = group("Compare", true, parts.mode, parts.error, parts.gain, parts.rate);
  const sides = ["left", "right"].map((name) => {
    const box = element("div"), names = hello.exhibits.map((e, i) => element("option", { value: i, textContent: e.name }));
    const select = element("select", { ariaLabel: `${name} side` }, ...names);
    select.addEventListener("change", () => act({ [name]: { exhibit: Number(select.value), knobs: {} } }));
    const bars = element("div");
    const fill = () => {
      const { exhibit, knobs } = state[name], chosen = hello.exhibits[exhibit];
      select.value = exhibit;
      box.replaceChildren(...chosen.knobs.map((knob) => slider(knob.label, { ...knob, value: knobs[knob.name] ?? knob.value },
        (v) => { state[name].knobs[knob.name] = v; act({}, true); })));
      const sizes = Object.entries(chosen.sizes).sort((a, b) => b[1] - a[1]).slice(0, 8), most = sizes.length ? sizes[0][1] : 1;
      bars.replaceChildren(...sizes.map(([key, size]) => {
        const length = element("i"); length.style.width = `${100 * size / most}%`;
        return element("div", { className: "bar" }, element("span", { textContent: key, title: key }), length, element("span", { textContent: bytesText(size) }));
      }));
    };
    const sizes = element("details", {}, element("summary", { textContent: "bytes by attribute" }), bars);
    parts[name] = fill; fill();
    return group(name === "left" ? "Left" : "Right", name === "right" || hello.exhibits.length === 1, select, box, sizes);
  });
  parts.figures = element("tbody");
  const figures = group("Figures", true, element("table", {}, element("thead", {}, element("tr", {}, element("th"),
    element("th", { textContent: "left" }), element("th", { textContent: "right" }))), parts.figures));
  parts.control = segments("Camera", [["orbit", "Orbit"], ["fly", "Fly"], ["turntable", "Turntable"]], () => state.control, (v) => act({ control: v }));
  parts.fov = slider("field of view", { low: 15, high: 110, step: 1, value: app.camera.fov * 180 / Math.PI },
    (v) => { app.camera.fov = v * Math.PI / 180; app.moved(); }, (v) => `${Math.round(v)}\u00b0`);
  const camera = group("Camera", true, parts.control,
    element("div", { className: "row" }, button("Home", app.goHome), button("Level", app.level), button("Flip up", app.flip), button("Aim", app.aim, { title: "Turn to the middle of the scene and circle it" })),
    parts.fov,
    element("div", { className: "hint" }, ...hint("drag turns, right drag shifts, wheel zooms, double click turns to a place; ", "WASD", " ", "QE", " fly, ", "1", "\u2013", "4", " modes, ", "H", " error, ", "K", " key frame, ", "P", " picture")));
  const groups = [compare, figures, ...sides, camera];
  if (hello.duration > 0) {
    parts.time = slider("time, s", { low: 0, high: hello.duration, step: hello.duration / 500, value: 0 }, (v) => { state.time = v; act({}, true); });
    groups.splice(1, 0, group("Time", true, parts.time));
  }
  if (hello.photos.length) groups.push(photoGroup(app, parts));
  groups.push(pathGroup(app, parts), lookGroup(app, parts));
  document.getElementById("panel").append(
    element("header", {}, element("span", { className: "brand", textContent: "fieldpress" }), parts.link = element("span", { className: "hint" })),
    element("h1", { textContent: hello.title }), ...groups);
  return parts;
}
function hint(...pieces) {
  const keys = new Set(["WASD", "QE", "1", "4", "H", "K", "P"]);
  return pieces.map((piece) => (keys.has(piece) ? element("kbd", { textContent: piece }) : piece));
}
function photoGroup(app, parts) {
  const { hello, state, act } = app;
  const select = element("select", { ariaLabel: "Photograph" }, element("option", { value: -1, textContent: "jump to a photograph" }),
    ...hello.photos.map((photo, i) => element("option", { value: i, textContent: photo.name })));
  select.addEventListener("change", () => { if (Number(select.value) >= 0) app.jump(Number(select.value)); });
  const step = (by) => app.jump(((state.lastPhoto ?? (by > 0 ? -1 : 0)) + by + hello.photos.length) % hello.photos.length);
  parts.photo = () => { select.value = state.photo ?? -1; };
  parts.photoLeft = check("left side is the photograph", () => state.photoLeft, (v) => act({ photoLeft: v }));
  return group("Photographs", true,
    element("div", { className: "row" }, button("\u2039", () => step(-1), { className: "small", ariaLabel: "previous" }), select,
      button("\u203a", () => step(1), { className: "small", ariaLabel: "next" }), button("Nearest", app.nearest, { className: "small" })),
    parts.photoLeft, check("photograph beside", () => state.beside, (v) => act({ beside: v })),
    check("cameras in the scene (click to jump)", () => state.frusta, (v) => { state.frusta = v; app.redraw(); }));
}
function pathGroup(app, parts) {
  const { path } = app, list = element("ol", { className: "keys" });
  const seconds = slider("seconds", { low: 1, high: 60, step: 1, value: path.seconds }, (v) => { path.seconds = v; });
  const loop = check("back to the start", () => path.loop, (v) => { path.loop = v; });
  const size = element("select", { ariaLabel: "Size of the video" }, ...["canvas", "640x360", "1280x720", "1920x1080"].map((t) => element("option", { value: t, textContent: t })));
  const bar = element("progress", { max: 1, value: 0, hidden: true });
  const file = element("input", { type: "file", accept: ".json", hidden: true });
  file.addEventListener("change", async () => {
    try { path.load(await file.files[0].text()); fill(); seconds.update(path.seconds); loop.update(); } catch (error) { app.notice(error.message); }
    file.value = "";
  });
  const playing = button("Play", () => app.play());
  const exporting = button("Export MP4", () => app.exportVideo(size.value));
  const cancel = button("Cancel", () => app.cancel(), { hidden: true });
  const fill = () => {
    list.replaceChildren(...path.keys.map((key, i) => element("li", {}, element("span", { textContent: `key ${i + 1}` }),
      button("go", () => app.goTo(key)), button("\u00d7", () => { path.keys.splice(i, 1); fill(); }, { ariaLabel: `remove key ${i + 1}` }))));
    playing.disabled = exporting.disabled = path.keys.length < 2;
  };
  fill();
  parts.path = fill;
  parts.progress = (done) => { bar.hidden = cancel.hidden = done === null; exporting.hidden = done !== null; bar.value = done ?? 0; };
  parts.playing = (on) => { playing.textContent = on ? "Stop" : "Play"; };
  return group("Path", false, element("div", { className: "row" }, button("Add key (K)", app.addKey), playing), list, seconds, loop,
    element("div", { className: "row" }, size, exporting, cancel), bar,
    element("div", { className: "row" }, button("Save", () => app.download(new Blob([path.save()]), "path.json")), button("Load", () => file.click())), file);
}
function lookGroup(app, parts) {
  const { state, act } = app;
  const color = element("input", { type: "color", value: "#000000", ariaLabel: "Background" });
  const set = (hex) => { color.value = hex; act({ background: [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255) }, true); };
  color.addEventListener("input", () => set(color.value));
  parts.color = color;
  return group("Background and picture", true,
    element("div", { className: "row" }, color, ...[["Black", "#000000"], ["Grey", "#808080"], ["White", "#ffffff"]].map(([t, hex]) => button(t, () => set(hex)))),
    element("div", { className: "row" }, button("Save picture (P)", app.picture)));
}
