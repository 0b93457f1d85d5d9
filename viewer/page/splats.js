// Splats by WebGL2: the projection and the thresholds of fieldpress' own rasteriser, sorted in a worker.
const WIDTH = 2048;  // Texels a row of the data textures.
const NEAR = 0.01, BLUR = 0.3, FAINTEST = 1 / 255, MARGIN = 0.3, ALPHA_CLAMP = 0.99;

// The worker: order from far to near, and the colours that the splats have from there.
function sorter() {
  let means, sh, bases, count, degree;
  const BITS = 18, starts = new Uint32Array((1 << BITS) + 1);
  const C1 = 0.4886025119029199, C2 = [1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396];
  const C3 = [-0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154, -0.4570457994644658, 1.445305721320277, -0.5900435899266435];
  const C4 = [2.5033429417967046, -1.7701307697799304, 0.9461746957575601, -0.6690465435572892, 0.10578554691520431, -0.6690465435572892,
    0.47308734787878004, -1.7701307697799304, 0.6258357354491761];
  function basis(x, y, z, d) {
    const b = [0.28209479177387814];
    if (d > 0) b.push(-C1 * y, C1 * z, -C1 * x);
    const xx = x * x, yy = y * y, zz = z * z;
    if (d > 1) b.push(C2[0] * x * y, C2[1] * y * z, C2[2] * (2 * zz - xx - yy), C2[3] * x * z, C2[4] * (xx - yy));
    if (d > 2) b.push(C3[0] * y * (3 * xx - yy), C3[1] * x * y * z, C3[2] * y * (4 * zz - xx - yy), C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
      C3[4] * x * (4 * zz - xx - yy), C3[5] * z * (xx - yy), C3[6] * x * (xx - 3 * yy));
    if (d > 3) b.push(C4[0] * x * y * (xx - yy), C4[1] * y * z * (3 * xx - yy), C4[2] * x * y * (7 * zz - 1), C4[3] * y * z * (7 * zz - 3),
      C4[4] * (zz * (35 * zz - 30) + 3), C4[5] * x * z * (7 * zz - 3), C4[6] * (xx - yy) * (7 * zz - 1), C4[7] * x * z * (xx - 3 * yy),
      C4[8] * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)));
    return b;
  }
  function colors(eye) {
    const out = new Float32Array(4 * self.texels);
    for (let i = 0; i < count; i++) {
      const x = means[3 * i] - eye[0], y = means[3 * i + 1] - eye[1], z = means[3 * i + 2] - eye[2], n = Math.hypot(x, y, z) || 1;
      const b = basis(x / n, y / n, z / n, degree);
      for (let c = 0; c < 3; c++) {
        let value = 0.5;
        for (let k = 0; k < b.length; k++) value += b[k] * sh[3 * (bases * i + k) + c];
        out[4 * i + c] = Math.max(0, value);
      }
    }
    return out;
  }
  function order([fx, fy, fz], shift) {
    const depths = new Float32Array(count);
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < count; i++) {
      const z = depths[i] = fx * means[3 * i] + fy * means[3 * i + 1] + fz * means[3 * i + 2] + shift;
      if (z > 0) { if (z < low) low = z; if (z > high) high = z; }
    }
    // Logarithmic buckets: near splats are told apart as finely as far ones.
    const scale = ((1 << BITS) - 1) / Math.max(Math.log(high / low), 1e-6), keys = new Uint32Array(count);
    starts.fill(0);
    for (let i = 0; i < count; i++) {
      const key = depths[i] > 0 ? Math.min(Math.max(Math.round(Math.log(high / depths[i]) * scale), 0), (1 << BITS) - 1) : (1 << BITS) - 1;
      keys[i] = key; starts[key + 1]++;
    }
    for (let k = 0; k < 1 << BITS; k++) starts[k + 1] += starts[k];
    const found = new Uint32Array(count);
    for (let i = 0; i < count; i++) found[starts[keys[i]]++] = i;
    return found;
  }
  self.onmessage = ({ data }) => {
    if (data.means) { ({ means, sh, bases } = data); count = means.length / 3; self.texels = data.texels; return; }
    degree = data.degree;
    const ordered = order(data.forward, data.shift), painted = data.paint ? colors(data.eye) : null;
    self.postMessage({ id: data.id, order: ordered, colors: painted }, painted ? [ordered.buffer, painted.buffer] : [ordered.buffer]);
  };
}

const VERTEX = `#version 300 es
precision highp float; precision highp int;
uniform highp sampler2D points, shapes, paints;
uniform mat3 turn; uniform vec3 move; uniform vec2 focal, size, middle; uniform bool sharp;
layout(location = 0) in uint index;
out vec3 color; out vec2 place; out float alpha;
void main() {
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
  ivec2 at = ivec2(index % ${WIDTH}u, index / ${WIDTH}u), wide = ivec2((2u * index) % ${WIDTH}u, (2u * index) / ${WIDTH}u);
  vec4 point = texelFetch(points, at, 0);
  vec3 p = turn * point.xyz + move;
  if (p.z < ${NEAR}) return;
  vec4 a = texelFetch(shapes, wide, 0); vec2 b = texelFetch(shapes, wide + ivec2(1, 0), 0).xy;
  mat3 covariance = mat3(a.x, a.y, a.z, a.y, a.w, b.x, a.z, b.x, b.y);
  vec2 margin = ${MARGIN} * 0.5 * size / focal;
  vec2 slope = clamp(p.xy / p.z, -(middle / focal + margin), (size - middle) / focal + margin);
  mat3 jacobian = mat3(focal.x / p.z, 0, 0, 0, focal.y / p.z, 0, -focal.x * slope.x / p.z, -focal.y * slope.y / p.z, 0);
  mat3 factor = jacobian * turn, flat3 = factor * covariance * transpose(factor);
  float raw = flat3[0][0] * flat3[1][1] - flat3[0][1] * flat3[0][1];
  float xx = flat3[0][0] + ${BLUR}, yy = flat3[1][1] + ${BLUR}, xy = flat3[0][1], det = xx * yy - xy * xy;
  alpha = point.w;
  if (sharp) alpha *= sqrt(max(raw / det, 0.000025));
  if (det <= 0.0 || alpha < ${FAINTEST}) return;
  float half_sum = 0.5 * (xx + yy), root = sqrt(max(0.25 * (xx - yy) * (xx - yy) + xy * xy, 0.0));
  float large = half_sum + root, small = max(half_sum - root, 1e-4), reach = sqrt(2.0 * log(alpha / ${FAINTEST}));
  vec2 axis = root < 1e-6 ? vec2(1, 0) : (abs(xy) > 1e-6 * root ? normalize(vec2(large - yy, xy)) : (xx > yy ? vec2(1, 0) : vec2(0, 1)));
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0;
  place = corner * reach;
  vec2 center = p.xy / p.z * focal + middle;
  vec2 pixel = center + place.x * sqrt(large) * axis + place.y * sqrt(small) * vec2(-axis.y, axis.x);
  color = texelFetch(paints, at, 0).rgb;
  gl_Position = vec4(pixel / size * vec2(2, -2) + vec2(-1, 1), 0.0, 1.0);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 color; in vec2 place; in float alpha; out vec4 result;
void main() {
  float a = min(alpha * exp(-0.5 * dot(place, place)), ${ALPHA_CLAMP});
  if (a < ${FAINTEST}) discard;
  result = vec4(color * a, a);
}`;
const SCREEN = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;
const FINISH = `#version 300 es
precision highp float;
uniform sampler2D drawn; uniform vec3 behind; uniform vec2 share; out vec4 result;
void main() {
  vec4 c = texture(drawn, gl_FragCoord.xy * share);
  result = vec4(c.rgb + (1.0 - c.a) * behind, 1.0);
}`;

class Splats {
  constructor(canvas, splats) {
    const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error("this browser has no WebGL2");
    Object.assign(this, { gl, canvas, antialiased: splats.antialiased, count: splats.count, degree: splats.degree, asked: 0, done: 0, behind: [0, 0, 0] });
    this.half = Boolean(gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float"));
    this.draws = this.program(VERTEX, FRAGMENT); this.finish = this.program(SCREEN, FINISH);
    const rows = Math.max(1, Math.ceil(this.count / WIDTH)), wide = Math.max(1, Math.ceil(2 * this.count / WIDTH));
    if (wide > gl.getParameter(gl.MAX_TEXTURE_SIZE)) throw new Error(`${this.count} splats are more than this GPU's textures hold`);
    const points = new Float32Array(4 * WIDTH * rows), shapes = new Float32Array(4 * WIDTH * wide);
    for (let i = 0; i < this.count; i++) {
      points.set(splats.means.subarray(3 * i, 3 * i + 3), 4 * i); points[4 * i + 3] = splats.alphas[i];
      shapes.set(splats.covars.subarray(6 * i, 6 * i + 6), 8 * i);
    }
    this.texture(0, rows, points); this.texture(1, wide, shapes);
    this.rows = rows; this.paints = this.texture(2, rows, new Float32Array(4 * WIDTH * rows));
    this.vao = gl.createVertexArray(); gl.bindVertexArray(this.vao);
    this.order = gl.createBuffer(); gl.bindBuffer(gl.ARRAY_BUFFER, this.order);
    gl.bufferData(gl.ARRAY_BUFFER, 4 * Math.max(this.count, 1), gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(0); gl.vertexAttribIPointer(0, 1, gl.UNSIGNED_INT, 0, 0); gl.vertexAttribDivisor(0, 1);
    this.target = gl.createTexture(); this.frame = gl.createFramebuffer();
    this.worker = new Worker(URL.createObjectURL(new Blob([`(${sorter})()`], { type: "text/javascript" })));
    this.worker.postMessage({ means: splats.means, sh: splats.sh, bases: splats.bases, texels: WIDTH * rows });
    this.worker.onmessage = ({ data }) => this.sorted(data);
  }
  program(vertex, fragment) {
    const { gl } = this, made = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text); gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
    return made;
  }
  texture(unit, rows, data) {
    const { gl } = this, made = gl.createTexture();
    gl.activeTexture(gl.TEXTURE0 + unit); gl.bindTexture(gl.TEXTURE_2D, made);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, WIDTH, rows, 0, gl.RGBA, gl.FLOAT, data);
    for (const key of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, key, gl.NEAREST);
    return made;
  }
  look(camera) {  // Sort for this camera, if the worker is free; true if nothing is left to be done.
    const key = JSON.stringify([camera.pose(), this.degree]);
    if (key === this.key) return this.asked === this.done;
    if (this.asked !== this.done) return false;
    const forward = camera.axes[2], paint = this.painted !== this.degree || this.degree > 0;
    this.key = key; this.painted = this.degree; this.asked += 1;
    this.worker.postMessage({ id: this.asked, forward, shift: -dot(forward, camera.eye), eye: camera.eye, degree: this.degree, paint });
    return false;
  }
  sorted({ id, order, colors }) {
    const { gl } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.order); gl.bufferSubData(gl.ARRAY_BUFFER, 0, order);
    if (colors) {
      gl.activeTexture(gl.TEXTURE2); gl.bindTexture(gl.TEXTURE_2D, this.paints);
      gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, WIDTH, this.rows, gl.RGBA, gl.FLOAT, colors);
    }
    this.done = id; this.stale = true;
  }
  resize(width, height) {
    const { gl, canvas } = this;
    if (this.width === width && this.height === height) return;
    Object.assign(this, { width, height });
    canvas.width = width; canvas.height = height;
    gl.activeTexture(gl.TEXTURE3); gl.bindTexture(gl.TEXTURE_2D, this.target);
    const [inner, type] = this.half ? [gl.RGBA16F, gl.HALF_FLOAT] : [gl.RGBA8, gl.UNSIGNED_BYTE];
    gl.texImage2D(gl.TEXTURE_2D, 0, inner, width, height, 0, gl.RGBA, type, null);
    for (const key of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, key, gl.NEAREST);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.target, 0);
    this.stale = true;
  }
  draw(camera) {
    const { gl, draws, finish, width, height } = this, [r, d, f] = camera.axes, p = camera.pose();
    const put = (program, name) => gl.getUniformLocation(program, name), focal = 0.5 * height / Math.tan(camera.fov / 2);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame); gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(draws); gl.bindVertexArray(this.vao);
    ["points", "shapes", "paints"].forEach((name, i) => gl.uniform1i(put(draws, name), i));
    gl.uniformMatrix3fv(put(draws, "turn"), false, [r[0], d[0], f[0], r[1], d[1], f[1], r[2], d[2], f[2]]);
    gl.uniform3f(put(draws, "move"), p[3], p[7], p[11]);
    gl.uniform2f(put(draws, "focal"), focal, focal); gl.uniform2f(put(draws, "size"), width, height);
    gl.uniform2f(put(draws, "middle"), width / 2, height / 2); gl.uniform1i(put(draws, "sharp"), this.antialiased ? 1 : 0);
    gl.enable(gl.BLEND); gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    if (this.done) gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.count);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null); gl.disable(gl.BLEND);
    gl.useProgram(finish); gl.uniform1i(put(finish, "drawn"), 3);
    gl.uniform3f(put(finish, "behind"), ...this.behind); gl.uniform2f(put(finish, "share"), 1 / width, 1 / height);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    this.stale = false;
  }
}
