// A reader of .fpz files, written from docs/format.md; names and numbers of sections are those of that page.
const clip = (x, low, high) => Math.min(Math.max(x, low), high);
const shifted = (x, bits) => Math.floor(x / 2 ** bits);  // x >> bits beyond 32 bits.
const log2floor = (x) => 31 - Math.clz32(x);
function roundEven(x) {
  const r = Math.round(x);
  return Math.abs(x - Math.trunc(x)) === 0.5 && r % 2 ? r - 1 : r;
}

// 1. The container.
function readContainer(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset), at = (i) => view.getUint32(i, true);
  if (at(0) !== 0x5a504689 || view.getUint16(4, true) !== 1) throw new Error("not a .fpz file of version 1");
  const size = at(8), count = at(12), sections = {};
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(20, 20 + size)));
  let place = 24 + size, payload = place + at(16) + 4;
  const number = () => {
    let value = 0, unit = 1, byte;
    do { byte = bytes[place++]; value += (byte & 127) * unit; unit *= 128; } while (byte & 128);
    return value;
  };
  for (let i = 0; i < count; i++) {
    const length = bytes[place++], name = new TextDecoder().decode(bytes.subarray(place, place += length));
    place += 1; number();  // The codec and the raw size are known to who asks.
    const coded = number();
    place += 4;
    sections[name] = bytes.subarray(payload, payload += coded);
  }
  if (payload !== bytes.length) throw new Error("the file is cut");
  return { header, sections };
}

// 2.4 The entropy coder.
class Decoder {
  constructor(data) {
    this.data = data; this.hi = 0; this.lo = 1; this.at = data.length <= 8 ? data.length : 5 + (data.length + 3) % 4;
    if (data.length) this.lo = 0;
    for (let i = 0; i < this.at; i++) {
      this.hi = (this.hi << 8 | this.lo >>> 24) >>> 0; this.lo = (this.lo << 8 | data[i]) >>> 0;
    }
  }
  get slot() { return this.lo & 32767; }
  take(start, size) {  // state = size * (state >> 15) + slot - start, in halves of 32 bits.
    const slot = this.lo & 32767, q = this.hi * 131072 + (this.lo >>> 15), high = Math.floor(q / 16777216), low = q - high * 16777216;
    const upper = size * high, sum = size * low + slot - start + (upper % 256) * 16777216;
    this.lo = sum % 4294967296; this.hi = Math.floor(upper / 256) + Math.floor(sum / 4294967296);
    if (this.hi === 0 && this.lo < 2147483648 && this.at < this.data.length) {
      const d = this.data, a = this.at;
      this.hi = this.lo; this.lo = (d[a] << 24 | d[a + 1] << 16 | d[a + 2] << 8 | d[a + 3]) >>> 0; this.at += 4;
    }
  }
  flag(p) { const one = this.slot < p; if (one) this.take(0, p); else this.take(p, 32768 - p); return one ? 1 : 0; }
  raw(bits) { const size = 32768 >> bits, value = Math.floor(this.slot / size); this.take(value * size, size); return value; }
  end() { if (this.at !== this.data.length || this.hi || this.lo !== 1) throw new Error("a stream does not end where it should"); }
}
const part = (error, rate) => ((error * rate >> 16) + 1) >> 1;
class Bits {  // Adaptive bits by context.
  constructor(count) { this.p = new Int32Array(count).fill(32768); this.rate = new Int32Array(count).fill(32767); }
  learn(i, bit) {
    this.p[i] += part((bit ? 65504 : 32) - this.p[i], this.rate[i]);
    this.rate[i] += part(800 - this.rate[i], this.rate[i]);
  }
  code(coder, i) { const bit = coder.flag(this.p[i] >> 1); this.learn(i, bit); return bit; }
}
class Tallies {  // Sixteen numbers each: the rate, then edges 1 to 15.
  constructor(priors) { this.e = new Int32Array(16 * priors.length); priors.forEach((prior, i) => this.e.set(prior, 16 * i)); }
  learn(i, token) {
    const e = this.e, at = 16 * i, rate = e[at];
    for (let j = 1; j <= token; j++) e[at + j] += part(j - e[at + j], rate);
    for (let j = token + 1; j < 16; j++) e[at + j] += part(32736 + j - e[at + j], rate);
    e[at] += part(800 - rate, rate);
  }
}
function tokenUnder(coder, a, i, b, j, c, k, d, l) {  // The mean of four tallies.
  const slot = coder.slot;
  let start = 0, end = 32768, token = 0;
  for (; token < 15; token++) {
    const t = token + 1, one = (a.e[16 * i + t] + b.e[16 * j + t] + 1) >> 1, two = (c.e[16 * k + t] + d.e[16 * l + t] + 1) >> 1;
    end = ((one + two + 1) >> 1) + t;
    if (slot < end) break;
    start = end; end = 32768;
  }
  coder.take(start, end - start);
  return token;
}
function tokenAlone(coder, tallies, i) {
  const token = tokenUnder(coder, tallies, i, tallies, i, tallies, i, tallies, i);
  tallies.learn(i, token);
  return token;
}
const SQUASH = [22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768, 40793, 47911, 53581,
  57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514];
function squash(x) {
  const s = clip(x, -2047, 2047) + 2048, i = s >> 7, r = s & 127;
  return (SQUASH[i] * (128 - r) + SQUASH[i + 1] * r + 64) >> 7;
}
const STRETCH = new Int32Array(4096);
for (let q = 0, x = -2047; q < 4096; q++) { while (x < 2047 && squash(x) < 16 * q + 8) x++; STRETCH[q] = x; }

// Integer matrices.
const lowOf = (token) => (token < 4 ? token : (2 + (token & 1)) << ((token >> 1) - 1));
const logOf = (m) => { const v = 5 * m + 2, l = log2floor(v); return 256 * l + (Math.floor(256 * v / 2 ** l) & 255) - 594; };
function levelPrior(level) {
  const edges = [29127];
  for (let j = 1; j < 16; j++) {
    const f = ((2 * lowOf(j) - 1) * [256, 215, 181, 152][level & 3] * 8) >> (level >> 2);
    edges.push(32752 - 16 * (16 - j) - (((31000 >> Math.min(20, f >> 8)) * (512 - (f & 255))) >> 9));
  }
  return edges;
}
function lastPrior(level) {
  const e = levelPrior(level);
  return [29127, 1, ...e.slice(2).map((edge, i) => Math.floor((edge - e[1]) * 32720 / (32752 - e[1])) + i + 2)];
}
function evenPrior(token) {
  const bits = Math.min(4, Math.max(0, (token >> 1) - 1));
  return [6096, ...Array.from({ length: 15 }, (_, i) => (i + 1 < 1 << bits ? (32736 * (i + 1)) >> bits : 32737 + i))];
}
const range = (n) => Array.from({ length: n }, (_, i) => i);
function decodeInts(data, count, channels, scales, first, second, near, limits) {
  const coder = new Decoder(data), many = channels > 8, groups = many ? Math.ceil(channels / 8) : channels;
  const tallies = (outer, inner, prior) => new Tallies(range(outer).flatMap(() => range(inner).map(prior)));
  const own = tallies(channels, 40, levelPrior), bySecond = tallies(groups * 32, 14, (t) => levelPrior(Math.min(39, 3 * t + 1)));
  const byBefore = tallies(groups * 16, 40, levelPrior), bySize = tallies(groups * 32, 5, (e) => levelPrior(8 * e + 4));
  const last = tallies(groups, 40, lastPrior), below = tallies(channels, 16, evenPrior);
  const longer = new Bits(channels * 24), signNear = new Bits(channels * 32 * 9), signBefore = new Bits(channels * 32 * 3);
  const weights = new Int32Array(8 * channels), center = new Int32Array(channels), biasFirst = new Int32Array(32 * channels), biasSecond = new Int32Array(32 * channels);
  for (let c = 0; c < channels; c++) weights.set([1000, 700, 600, 1200, 0, 0, 0, 0], 8 * c);
  const symbols = new Int32Array(count * channels), logs = new Int32Array(count * channels), f = new Int32Array(8);
  for (let i = 0; i < count; i++) {
    const scale = scales ? scales[i] : 1, log = logOf(scale), one = first[i], two = second[i], limit = limits ? limits[i] : channels;
    const size = scale === 1 ? one : (log >> 6) & 31;
    let before = one & 15, mean = 0, meanBefore = 0, signOf = 0;
    for (let c = 0; c < limit; c++) {
      const z = center[c] >> 4, w = 8 * c, ends = limits && c === limit - 1;
      for (let k = 0; k < 3; k++) { const j = near ? near[4 * i + k] : -1; f[k] = j >= 0 ? logs[j * channels + c] - z - log : 0; }
      f[3] = c > 1 ? meanBefore - z : 0; f[4] = log - 848; f[5] = 256;
      let dot = 0;
      for (let k = 0; k < 8; k++) dot += f[k] * weights[w + k];
      const guess = shifted(dot, 12) + ((biasFirst[32 * c + one] + biasSecond[32 * c + two]) >> 4) + z;
      const level = clip((guess + 768) >> 6, 0, 39), g = many ? c >> 3 : c;
      let token;
      if (ends) token = tokenAlone(coder, last, 40 * g + level);
      else {
        const a = 40 * c + level, b = 14 * (32 * g + two) + Math.floor(level / 3), d = 40 * (16 * g + before) + level, e = 5 * (32 * g + size) + (level >> 3);
        token = tokenUnder(coder, own, a, bySecond, b, byBefore, d, bySize, e);
        own.learn(a, token); bySecond.learn(b, token); byBefore.learn(d, token); bySize.learn(e, token);
      }
      let m = token;
      if (token === 15) {
        let bits = 6, left;
        while (bits < 23 && longer.code(coder, 24 * c + bits)) bits++;
        for (m = 1, left = bits; left > 0;) { const some = Math.min(8, left); left -= some; m = m * 2 ** some + coder.raw(some); }
        m += 128;
      } else if (token > 3) {
        const raw = Math.max(0, (token >> 1) - 5);
        m = tokenAlone(coder, below, 16 * c + token);
        if (raw) m = m << raw | coder.raw(raw);
        m += lowOf(token);
      }
      const size2 = logOf(m);
      if (!ends) {
        const error = clip(size2 - guess, -4095, 4095);
        for (let k = 0; k < 6; k++) weights[w + k] = clip(weights[w + k] + part(8 * error, f[k]), -32768, 32767);
        biasFirst[32 * c + one] += error >> 2; biasSecond[32 * c + two] += error >> 3;
        center[c] += (16 * size2 - center[c]) >> 7;
      }
      meanBefore = mean;
      mean = c ? mean + ((size2 - mean) >> (many ? 2 : 1)) : size2;
      let sign = 0;
      if (m) {
        const j = near ? near[4 * i] : -1, nearest = j >= 0 ? Math.sign(symbols[j * channels + c]) : 0;
        const p = 9 * (32 * c + one) + 3 * (nearest + 1) + Math.min(2, (token - 1) >> 1), q = 3 * (32 * c + two) + signOf + 1;
        const negative = coder.flag((signNear.p[p] + signBefore.p[q]) >> 2);
        signNear.learn(p, negative); signBefore.learn(q, negative);
        sign = negative ? -1 : 1;
      }
      signOf = sign; before = Math.min(7, token) * 2 + (sign < 0 ? 1 : 0);
      symbols[i * channels + c] = sign * m;
    }
    for (let c = 0; c < channels; c++) logs[i * channels + c] = logOf(Math.abs(symbols[i * channels + c])) + log;
  }
  coder.end();
  return symbols;
}

// 2.2 Positions: cells [N] in the order of their Morton codes.
class CellMap {  // From a cell to a number, by open addressing.
  constructor(count) {
    this.mask = 2 ** Math.ceil(Math.log2(2 * count + 2)) - 1;
    this.cells = new Int32Array(3 * (this.mask + 1)); this.found = new Int32Array(this.mask + 1).fill(-1);
  }
  slot(x, y, z) {
    let i = (Math.imul(x, 0x9e3779b1) ^ Math.imul(y, 0x85ebca6b) ^ Math.imul(z, 0xc2b2ae35));
    for (i = (i ^ i >>> 15) & this.mask; this.found[i] >= 0; i = (i + 1) & this.mask)
      if (this.cells[3 * i] === x && this.cells[3 * i + 1] === y && this.cells[3 * i + 2] === z) break;
    return i;
  }
  get(x, y, z) { return this.found[this.slot(x, y, z)]; }
  set(x, y, z, value) { const i = this.slot(x, y, z); this.cells.set([x, y, z], 3 * i); this.found[i] = value; }
}
const ONES = range(256).map((x) => x.toString(2).replaceAll("0", "").length);
function decodeOctree(data, depth, count) {
  const coder = new Decoder(data), even = [29127, ...range(15).map((i) => (i < 8 ? 2600 * (i + 1) : 32737 + i))];
  const tallies = (n) => new Tallies(range(n).map(() => even));
  const byLevel = tallies(20 * 7), byFaces = tallies(64), byBeside = tallies(256), byCount = tallies(9 * 8);
  const inputs = [20 * 8 * 256, 8 * 64 * 8, 8 * 64 * 4, 64 * 27 * 8].map((n) => new Bits(n));
  const weights = new Int32Array(4 * 8 * 4 * 7).fill(24576), uses = new Int32Array(8 * 4 * 7), at = [0, 0, 0, 0], x4 = [0, 0, 0, 0];
  const mixed = (selector) => {
    let total = 0;
    for (let k = 0; k < 4; k++) { x4[k] = STRETCH[inputs[k].p[at[k]] >> 4]; total += x4[k] * weights[4 * selector + k]; }
    const p = squash(shifted(total, 16)), bit = coder.flag(p >> 1), rate = 10 + Math.floor(40 / (1 + (uses[selector] >> 4)));
    uses[selector] = Math.min(65535, uses[selector] + 1);
    const error = ((65536 * bit - p) * rate) >> 8;
    for (let k = 0; k < 4; k++) {
      weights[4 * selector + k] = clip(weights[4 * selector + k] + ((x4[k] * error + 2048) >> 12), -4194304, 4194304);
      inputs[k].learn(at[k], bit);
    }
    return bit;
  };
  let nodes = count ? [new Int32Array(3)] : [], n = count ? 1 : 0;
  nodes = count ? nodes[0] : new Int32Array(0);
  const states = new Int32Array(6), touched = new Int32Array(6);
  for (let level = 0; level < depth; level++) {
    const here = new CellMap(n), masks = new Uint8Array(n), side = 2 ** level;
    for (let i = 0; i < n; i++) here.set(nodes[3 * i], nodes[3 * i + 1], nodes[3 * i + 2], i);
    let total = 0;
    for (let i = 0; i < n; i++) {
      let faces = 0, later = 0, beside = 0;
      for (let face = 0; face < 6; face++) {
        states[face] = touched[face] = 0;
        const axis = face >> 1, cell = [nodes[3 * i], nodes[3 * i + 1], nodes[3 * i + 2]];
        cell[axis] += face & 1 ? 1 : -1;
        if (cell[axis] < 0 || cell[axis] >= side) continue;
        const other = here.get(...cell);
        if (other < 0) continue;
        faces |= 1 << face; states[face] = other > i ? 1 : 2;
        if (other > i) { later |= 1 << axis; continue; }
        touched[face] = masks[other];
        for (let child = 0; child < 8; child++)
          if ((child >> axis & 1) === (face & 1) && masks[other] >> (child ^ 1 << axis) & 1) beside |= 1 << child;
      }
      const a = 7 * level + ONES[faces], d = 8 * ONES[beside] + later;
      const token = tokenUnder(coder, byLevel, a, byFaces, faces, byBeside, beside, byCount, d);
      byLevel.learn(a, token); byFaces.learn(faces, token); byBeside.learn(beside, token); byCount.learn(d, token);
      let got = token === 8 ? 0 : 1 << (token & 7);
      for (let child = 0; token === 8 && child < 8; child++) {
        const siblings = ONES[got];
        if (child - siblings === 6) { got |= 1 << child; continue; }
        let outer = 0, inner = 0;
        for (let axis = 0; axis < 3; axis++) {
          const face = 2 * axis + (child >> axis & 1), mate = child ^ 1 << axis;
          outer = outer * 4 + states[face] + (touched[face] >> mate & 1);
          inner = inner * 3 + (mate > child ? 0 : 1 + (got >> mate & 1));
        }
        const known = Math.min(3, siblings);
        at[0] = 256 * (8 * level + child) + got; at[1] = 8 * (64 * child + faces) + siblings;
        at[2] = 4 * (64 * child + outer) + known; at[3] = 8 * (27 * outer + inner) + Math.min(7, level);
        got |= mixed(7 * (4 * child + known) + ONES[faces]) << child;
      }
      masks[i] = got; total += ONES[got];
      if (total > count) throw new Error("the octree holds more than it claims");
    }
    const children = new Int32Array(3 * total);
    for (let i = 0, k = 0; i < n; i++)
      for (let child = 0; child < 8; child++)
        if (masks[i] >> child & 1)
          for (let axis = 0; axis < 3; axis++) children[k++] = 2 * nodes[3 * i + axis] + (child >> axis & 1);
    nodes = children; n = total;
  }
  const repeats = new Bits(4 * 32), cells = new Int32Array(3 * count);
  let left = count - n, previous = 0, k = 0;
  for (let i = 0; i < n; i++) {
    let more = 0;
    while (left > 0 && repeats.code(coder, 32 * previous + Math.min(31, more))) { more++; left--; }
    previous = Math.min(3, more);
    for (let j = 0; j <= more; j++, k += 3) cells.set(nodes.subarray(3 * i, 3 * i + 3), k);
  }
  coder.end();
  return cells;
}

// 2.5 Attributes. The four neighbours [4N] of each point, or -1.
function causalNeighbors(cells, count, depth) {
  let level = 0;
  for (; level < depth; level++) {
    let distinct = count ? 1 : 0;
    const drop = depth - level;
    for (let i = 3; i < 3 * count; i += 3)
      if (cells[i] >> drop !== cells[i - 3] >> drop || cells[i + 1] >> drop !== cells[i - 2] >> drop || cells[i + 2] >> drop !== cells[i - 1] >> drop) distinct++;
    if (5 * distinct >= count) break;
  }
  const up = depth - level, drop = Math.max(0, up - 10), grid = new CellMap(count), out = new Int32Array(4 * count).fill(-1);
  const lastOf = new Int32Array(count).fill(-1), beforeOf = new Int32Array(count).fill(-1), best = new Float64Array(4);
  let used = 0;
  for (let i = 0; i < count; i++) {
    const px = cells[3 * i], py = cells[3 * i + 1], pz = cells[3 * i + 2], gx = px >> up, gy = py >> up, gz = pz >> up, row = 4 * i;
    let n = 0;
    for (let q = 0; q < 27; q++) {
      const x = gx + q % 3 - 1, y = gy + Math.floor(q / 3) % 3 - 1, z = gz + Math.floor(q / 9) - 1, home = grid.get(x, y, z);
      if (home < 0) continue;
      for (let j = lastOf[home], met = 0; j >= 0 && met < 12; j = beforeOf[j], met++) {
        const a = (cells[3 * j] >> drop) - (px >> drop), b = (cells[3 * j + 1] >> drop) - (py >> drop), c = (cells[3 * j + 2] >> drop) - (pz >> drop);
        const far = a * a + b * b + c * c;
        let k = n;
        while (k > 0 && (far < best[k - 1] || (far === best[k - 1] && j > out[row + k - 1]))) k--;
        if (k > 3) continue;
        for (let m = Math.min(n, 3); m > k; m--) { best[m] = best[m - 1]; out[row + m] = out[row + m - 1]; }
        best[k] = far; out[row + k] = j;
        if (n < 4) n++;
      }
    }
    for (let j = i - 1; n < 4 && j >= 0; j--) {
      let there = false;
      for (let k = 0; k < n; k++) there ||= out[row + k] === j;
      if (!there) out[row + n++] = j;
    }
    let home = grid.get(gx, gy, gz);
    if (home < 0) { home = used++; grid.set(gx, gy, gz, home); }
    beforeOf[i] = lastOf[home]; lastOf[home] = i;
  }
  return out;
}
function reconstruct(symbols, count, channels, scales, near, sides, { weights, fill, bias, previous }) {
  const width = 4 + previous + sides.length + 1, values = new Int32Array(count * channels);
  for (let i = 0; i < count; i++) {
    const scale = scales[i], pull = (scale * bias) >> 6;
    for (let c = 0; c < channels; c++) {
      const w = c * width;
      let total = 2048 + 4096 * weights[w + width - 1];
      for (let k = 0; k < 4; k++) { const j = near[4 * i + k]; total += weights[w + k] * (j < 0 ? fill[c] : values[j * channels + c]); }
      for (let k = 0; k < previous && k < c; k++) total += weights[w + 4 + k] * values[i * channels + c - 1 - k];
      for (let k = 0; k < sides.length; k++) total += weights[w + 4 + previous + k] * sides[k][i];
      const symbol = symbols[i * channels + c];
      values[i * channels + c] = clip(shifted(total, 12) + symbol * scale - Math.sign(symbol) * pull, -268435456, 268435456);
    }
  }
  return values;
}
const SHAPES = { opa: [1, 0, 2], scl: [3, 2, 3], tlt: [2, 0, 0], rol: [1, 0, 0], dc: [3, 2, 0], ac: [0, 0, 0] };  // Channels, previous, sides.
function readTables(raw, layout, rest) {
  const view = new DataView(raw.buffer, raw.byteOffset), tables = {};
  let at = 0;
  const ints = (n) => Int32Array.from({ length: n }, () => { at += 4; return view.getInt32(at - 4, true); });
  for (const [key, [channels, previous, sides]] of Object.entries(SHAPES)) {
    const c = channels || rest;
    let weights = ints(c * (key === "ac" ? 2 : 5 + previous + sides));
    if (key === "ac") weights = Int32Array.from({ length: 5 * c }, (_, i) => weights[2 * Math.floor(i / 5) + (i % 5 === 4 ? 1 : 0)]);
    tables[key] = { weights, fill: ints(c), previous, bias: layout.bias[key] };
  }
  tables.dcBasis = new Int8Array(raw.buffer, raw.byteOffset + at, 9);
  tables.acBasis = new Int8Array(raw.buffer, raw.byteOffset + at + 9, layout.mix === "klt" ? rest * rest : 0);
  return tables;
}
function unpackBits(data, widths) {
  let at = 0;
  return Int32Array.from(widths, (width) => {
    let value = 0;
    for (let k = 0; k < width; k++, at++) value = value << 1 | (data[at >> 3] >> (7 - (at & 7)) & 1);
    return value;
  });
}
const ANGLES = [512, 170, 101, 71, 54, 43, 35, 30, 25, 22, 19, 16, 14, 12, 11, 9, 8, 7, 6, 6, 5, 4];
function decodeBlock(get, n, layout, tables, rest) {
  const { level, units } = layout, cells = decodeOctree(get("pos"), level, n), near = causalNeighbors(cells, n, level);
  const zero = new Uint8Array(n), scalesOf = (key, classes) => Int32Array.from(classes, (k) => Math.min(8 << k, layout.caps[key]));
  const classesOf = (key, side) => decodeInts(get(key), n, 1, null, side, side, near, null).map((k) => clip(k, 0, 9));
  const colored = classesOf("cls", zero), shaped = decodeInts(get("gcl"), n, 1, null, colored, colored, near, null).map((k) => clip(k, 0, 9));
  const values = (key, scales, classes, second, sides = [], limits = null) => {
    const channels = SHAPES[key][0] || rest, symbols = decodeInts(get(key), n, channels, scales, classes, second, near, limits);
    return reconstruct(symbols, n, channels, scales, near, sides, tables[key]);
  };
  const sides = [colored.map((k) => 64 * k), shaped.map((k) => 64 * k)];
  const opacity = values("opa", scalesOf("opa", shaped), shaped, colored, sides);
  const scales = values("scl", scalesOf("scl", shaped), shaped, opacity.map((v) => clip((v >> 4) + 31, 0, 31)), [...sides, opacity]);
  const u = roundEven(units.scl * 8 * 65536), tiltScale = scalesOf("tlt", shaped), rollScale = scalesOf("rol", shaped), shape = new Int32Array(n), needle = new Uint8Array(n);
  const turned = (scale, ratio) => clip((scale * ANGLES[clip(ratio, 0, 21)]) >> 6, 1, 1 << 24);
  for (let i = 0; i < n; i++) {
    const [s0, s1, s2] = scales.subarray(3 * i, 3 * i + 3), p = shifted((s0 - s1) * u, 16), q = shifted((s1 - s2) * u, 16);
    needle[i] = s0 - s1 > s1 - s2 ? 1 : 0;
    tiltScale[i] = turned(tiltScale[i], needle[i] ? p : Math.min(p + q, 16)); rollScale[i] = turned(rollScale[i], needle[i] ? Math.min(q, 3) : p);
    shape[i] = 16 * needle[i] + clip((needle[i] ? p : p + q) >> 1, 0, 15);
  }
  const tilt = values("tlt", tiltScale, shaped, shape), roll = values("rol", rollScale, shaped, shape);
  const K = 369.3299304675746, perUnit = roundEven(units.scl * K * 65536), spare = 20 - level, widths = new Uint8Array(3 * n);
  const slope = roundEven(layout.span * K * 65536 / 2097152), zeros = layout.low.map((low) => roundEven(-low / layout.span * 2097152));
  for (let i = 0; i < n; i++) {
    const size = shifted(scales[3 * i + 1] * perUnit, 16), allowed = Math.min(layout.precision + 256 * shaped[i], layout.precision_cap);
    for (let a = 0; a < 3; a++) {
      const leaf = (2 * cells[3 * i + a] + 1) * 2 ** spare, stretch = shifted(Math.abs(leaf - zeros[a]) * slope, 16);
      widths[3 * i + a] = clip(shifted(layout.log_span + stretch - (size + allowed) + 128, 8) - level, 0, spare);
    }
  }
  const fine = unpackBits(get("fin"), widths);
  const places = Float64Array.from(fine, (bits, i) => (2 * (cells[i] * 2 ** widths[i] + bits) + 1) * 2 ** (spare - widths[i]));
  const second = Int32Array.from({ length: n }, (_, i) => clip(((scales[3 * i + 1] - tables.scl.fill[1]) >> 5) + 16, 0, 31));
  const dc = values("dc", scalesOf("dc", colored), colored, second);
  let ac = null;
  if (rest) {
    const limits = decodeInts(get("lim"), n, 1, null, colored, second, near, null);
    ac = values("ac", scalesOf("ac", colored), colored, limits.map((limit) => Math.min(31, limit >> 1)), [], limits);
  }
  return { places, opacity, scales, tilt, roll, needle, dc, ac };
}

// 2.6 Dequantisation, into arrays of all blocks.
const LUMA = [[1, 1, 1], [1, 0, -1], [1, -2, 1]].map((m) => m.map((v) => v / Math.hypot(...m)));
function restore(block, n, at, layout, tables, rest, out) {
  const { units } = layout, k = rest / 3, bases = k + 1;
  for (let i = 0; i < n; i++) {
    const o = at + i;
    for (let a = 0; a < 3; a++) {
      const t = block.places[3 * i + a] * (layout.span / 2097152) + layout.low[a];
      out.means[3 * o + a] = Math.sign(t) * Math.expm1(Math.abs(t)) * layout.radius + layout.center[a];
    }
    out.alphas[o] = Math.exp(-Math.max(-block.opacity[i] * units.opa, 9.11e-4));
    const s = [0, 1, 2].map((a) => Math.exp(block.scales[3 * i + a] * units.scl));
    const scales = block.needle[i] ? [s[1], s[2], s[0]] : s;
    covariance(quaternionOf(clip(block.tilt[2 * i] * units.tlt, -1, 1), clip(block.tilt[2 * i + 1] * units.tlt, -1, 1), block.roll[i] * units.rol), scales, out.covars, 6 * o);
    const sh = out.sh.subarray(3 * bases * o, 3 * bases * (o + 1));
    for (let j = 0; j < 3; j++) {
      let sum = 0;
      for (let q = 0; q < 3; q++) sum += tables.dcBasis[3 * q + j] * block.dc[3 * i + q];
      sh[j] = sum * (units.dc / 127);
    }
    for (let q = 0; q < rest; q++) {
      const value = block.ac[rest * i + q];
      if (!value) continue;
      if (layout.mix === "klt") for (let j = 0; j < rest; j++) sh[3 + j] += tables.acBasis[rest * q + j] * value * (units.ac / 127);
      else for (let j = 0; j < 3; j++) sh[3 + 3 * (q % k) + j] += LUMA[Math.floor(q / k)][j] * value * units.ac;
    }
  }
}
function quaternionOf(u, v, roll) {
  const x = (u + v) / 2, y = (u - v) / 2, z = Math.max(1 - Math.abs(x) - Math.abs(y), 0), l = Math.hypot(x, y, z);
  let w = 1 + z / l, a = -y / l, b = x / l;
  const m = Math.hypot(w, a, b), s = Math.sin(roll / 2), c = Math.cos(roll / 2);
  w /= m; a /= m; b /= m;
  return [w * c, a * c + b * s, b * c - a * s, w * s];
}
function covariance([w, x, y, z], scales, out, at) {
  const r = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), 2 * (x * y + w * z), 1 - 2 * (x * x + z * z),
    2 * (y * z - w * x), 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)];
  const m = r.map((v, i) => v * scales[i % 3]);
  const product = (a, b) => m[3 * a] * m[3 * b] + m[3 * a + 1] * m[3 * b + 1] + m[3 * a + 2] * m[3 * b + 2];
  [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]].forEach(([a, b], i) => { out[at + i] = product(a, b); });
}

// Splats of a file: means [N,3], covars [N,6], alphas [N], sh [N,K,3]; progress is told the share that is done.
async function decodeFpz(bytes, progress = async () => {}) {
  const { header, sections } = readContainer(bytes), { layout } = header;
  if (header.kind !== "gaussians" || header.codec) throw new Error("not a file of Gaussians of our codec");
  const degree = layout.sh_degree, bases = (degree + 1) ** 2, rest = 3 * (bases - 1), count = layout.counts.reduce((a, b) => a + b, 0);
  const out = { count, degree, bases, antialiased: layout.antialiased, means: new Float32Array(3 * count), covars: new Float32Array(6 * count),
    alphas: new Float32Array(count), sh: new Float32Array(3 * bases * count) };
  if (!count) return out;
  const tables = readTables(await inflate(sections.tab), layout, rest);
  let at = 0;
  for (let b = 0; b < layout.counts.length; b++) {
    await progress(at / count);
    restore(decodeBlock((key) => sections[`${key}/${b}`], layout.counts[b], layout, tables, rest), layout.counts[b], at, layout, tables, rest, out);
    at += layout.counts[b];
  }
  return out;
}
async function inflate(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
