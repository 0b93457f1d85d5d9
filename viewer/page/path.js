// Key frames and the smooth way through them: Catmull-Rom of places and of quaternions.
function quaternion(axes) {  // xyzw of the rotation whose rows are the axes.
  const [[a, b, c], [d, e, f], [g, h, i]] = axes, trace = a + e + i;
  let q;
  if (trace > 0) { const s = 2 * Math.sqrt(1 + trace); q = [(h - f) / s, (c - g) / s, (d - b) / s, s / 4]; }
  else if (a > e && a > i) { const s = 2 * Math.sqrt(1 + a - e - i); q = [s / 4, (b + d) / s, (c + g) / s, (h - f) / s]; }
  else if (e > i) { const s = 2 * Math.sqrt(1 + e - a - i); q = [(b + d) / s, s / 4, (f + h) / s, (c - g) / s]; }
  else { const s = 2 * Math.sqrt(1 + i - a - e); q = [(c + g) / s, (f + h) / s, s / 4, (d - b) / s]; }
  const n = Math.hypot(...q);
  return q.map((v) => v / n);
}
function axesOf([x, y, z, w]) {
  return [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
    [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]];
}
const spline = (p, q, r, s, t) => q.map((_, i) => 0.5 * (2 * q[i] + (r[i] - p[i]) * t
  + (2 * p[i] - 5 * q[i] + 4 * r[i] - s[i]) * t * t + (3 * q[i] - p[i] - 3 * r[i] + s[i]) * t * t * t));

class Path {
  constructor() { this.keys = []; this.seconds = 6; this.loop = false; }
  add(camera, time) {
    this.keys.push({ eye: [...camera.eye], turn: quaternion(camera.axes), fov: camera.fov, distance: camera.distance, time });
  }
  at(share) {  // The key frame, of share 0 to 1 of the way.
    const n = this.keys.length, ways = this.loop ? n : n - 1;
    const place = Math.min(Math.max(share, 0), 1) * ways, first = Math.min(Math.floor(place), Math.max(ways - 1, 0));
    const key = (i) => this.keys[this.loop ? (i + n) % n : Math.min(Math.max(i, 0), n - 1)];
    const four = [-1, 0, 1, 2].map((i) => key(first + i)), t = place - first;
    const turns = [four[1].turn];  // A quaternion and its negative are one rotation: take the near ones.
    const near = (q, to) => (q.reduce((s, v, i) => s + v * to[i], 0) < 0 ? q.map((v) => -v) : q);
    const second = near(four[2].turn, turns[0]);
    const turn = spline(near(four[0].turn, turns[0]), turns[0], second, near(four[3].turn, second), t);
    const size = Math.hypot(...turn), mix = (name) => four[1][name] * (1 - t) + four[2][name] * t;
    return { eye: spline(four[0].eye, four[1].eye, four[2].eye, four[3].eye, t), axes: axesOf(turn.map((v) => v / size)),
      fov: mix("fov"), distance: mix("distance"), time: mix("time") };
  }
  samples(fps) {
    const count = Math.max(1, Math.min(3600, Math.round(this.seconds * fps)));
    return Array.from({ length: count }, (_, i) => this.at(this.loop ? i / count : count > 1 ? i / (count - 1) : 0));
  }
  save() { return JSON.stringify({ fieldpress_path: 1, seconds: this.seconds, loop: this.loop, keys: this.keys }, null, 1); }
  load(text) {
    const found = JSON.parse(text);
    const numbers = (list, n) => Array.isArray(list) && list.length === n && list.every(Number.isFinite);
    const good = found.fieldpress_path === 1 && Array.isArray(found.keys) && found.keys.every((key) =>
      numbers(key.eye, 3) && numbers(key.turn, 4) && [key.fov, key.distance, key.time].every(Number.isFinite));
    if (!good) throw new Error("this is not a camera path of fieldpress");
    Object.assign(this, { keys: found.keys, loop: Boolean(found.loop), seconds: Math.min(Math.max(Number(found.seconds) || 6, 1), 60) });
  }
}
